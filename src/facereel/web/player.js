// Plays a video from a given time, and sends a frame of it to the drop zone.
export default {
  template: `
    <div class="screen">
      <video ref="video" controls playsinline preload="metadata" tabindex="0" :src="src" :aria-label="label"
        @error="fail" @loadedmetadata="begin"></video>
      <button type="button" class="button" @click="grab">Search with this frame</button>
    </div>
  `,
  props: { src: String, start: Number, label: String, name: String, turn: Number },
  emits: ["unplayable", "refused"],
  watch: {
    turn() {
      this.begin();
    },
  },
  mounted() {
    this.$refs.video.focus({ preventScroll: true });
    this.$el.scrollIntoView({ block: "nearest" });
  },
  methods: {
    begin() {
      const video = this.$refs.video;
      // Null if the video was removed while its metadata loaded.
      if (!video || video.readyState < 1) return;
      // Sound without an image: the browser knows the container but not the codec.
      if (!video.videoWidth) return this.fail();
      video.currentTime = this.start;
      video.play().catch(() => {}); // if autoplay is not allowed, it waits at this time with its controls
      video.focus({ preventScroll: true });
      this.$el.scrollIntoView({ block: "nearest" });
    },
    fail() {
      this.$emit("unplayable", {});
    },
    grab() {
      const video = this.$refs.video;
      if (video.readyState < 2) return;
      video.pause();
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      const seconds = Math.floor(video.currentTime);
      const clock = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
      canvas.toBlob(
        (blob) =>
          document.dispatchEvent(
            new CustomEvent("facereel-frame", { detail: { blob, name: `${this.name} at ${clock}` } }),
          ),
        "image/png",
      );
    },
  },
};
