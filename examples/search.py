"""Find the people of a photo in videos, without the command line.

    pip install 'facereel[cpu,pretrained]'
    python search.py VIDEOS PHOTO

VIDEOS is a video or a folder of videos. The index is written to the folder index; run the script again to search for
another photo.
"""

import sys

import facereel


def main(videos: str, photo: str) -> None:
    """Index videos, and print the nearest ones for each face of a photo."""
    facereel.index_videos(videos, out="index")
    search = facereel.FaceSearch("index")
    for number, face in enumerate(search.faces(photo)):
        print(f"face {number}")
        for result in search.search(face, top=5):
            print(f"  {result.distance:.3f}  {result.video}  {result.start_s:.1f} to {result.end_s:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python search.py VIDEOS PHOTO")
    main(*sys.argv[1:])
