"""The luma weights of red, green and blue of ITU-R BT.601, which OpenCV and JPEG use."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)

LUMA_SHIFT = 14
# The weights in units of 2^-14, so that the luma of uint8 images is computed in integers.
LUMA_INTEGER_WEIGHTS = tuple(round(weight * 2**LUMA_SHIFT) for weight in LUMA_WEIGHTS)
