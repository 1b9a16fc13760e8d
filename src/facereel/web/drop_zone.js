// Takes an image or a video by click, keyboard, drop or paste, or a frame of the player, and sends it to /upload.
export default {
  template: `
    <div class="drop" :class="{over}" @dragover.prevent="over = true" @dragleave="over = false" @drop.prevent="dropped">
      <label class="button primary">
        Choose a photo or short video
        <input ref="input" type="file" accept="image/*,video/*,.heic,.heif,.hif,.avif" class="unseen" :aria-describedby="hint"
          @change="chosen" @keydown.enter.prevent="$refs.input.click()" />
      </label>
      <p :id="hint" class="hint">or drop or paste it here. Up to {{ largest }} MB; videos up to {{ longest }} seconds. It is sent only
        to this server, which deletes it after finding its faces.</p>
      <progress v-if="sending" :value="share" max="1" aria-label="Sending the file"></progress>
    </div>
  `,
  props: { largest: Number, longest: Number },
  emits: ["sent", "sending", "refused"],
  data() {
    return { over: false, sending: false, share: 0, hint: "drop-hint" };
  },
  mounted() {
    this.onPaste = (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (file) this.send(file, file.name);
    };
    this.onFrame = (event) => this.send(event.detail.blob, event.detail.name);
    // Without this, a file dropped next to the zone would replace the page.
    this.keep = (event) => event.preventDefault();
    document.addEventListener("paste", this.onPaste);
    document.addEventListener("facereel-frame", this.onFrame);
    document.addEventListener("dragover", this.keep);
    document.addEventListener("drop", this.keep);
  },
  unmounted() {
    document.removeEventListener("paste", this.onPaste);
    document.removeEventListener("facereel-frame", this.onFrame);
    document.removeEventListener("dragover", this.keep);
    document.removeEventListener("drop", this.keep);
    this.request?.abort();
  },
  methods: {
    chosen() {
      const file = this.$refs.input.files[0];
      if (file) this.send(file, file.name);
      this.$refs.input.value = ""; // so that the same file can be chosen again
    },
    dropped(event) {
      this.over = false;
      const file = event.dataTransfer.files[0];
      if (file) this.send(file, file.name);
    },
    send(file, name) {
      this.request?.abort();
      if (file.size > this.largest * 1024 * 1024) {
        this.sending = false;
        this.$emit("refused", { name, reason: `larger than ${this.largest} MB` });
        return;
      }
      const request = (this.request = new XMLHttpRequest());
      const over = (reason) => {
        if (this.request !== request) return;
        this.sending = false;
        if (reason) this.$emit("refused", { name, reason });
      };
      request.upload.onprogress = (event) => (this.share = event.total ? event.loaded / event.total : 0);
      request.onload = () => {
        over(request.status === 200 ? "" : request.responseText.trim());
        if (request.status === 200) this.$emit("sent", { name, id: JSON.parse(request.responseText).id });
      };
      request.onerror = () => over("the server cannot be reached");
      this.sending = true;
      this.share = 0;
      this.$emit("sending", { name });
      request.open("POST", (window.path_prefix ?? "") + "/upload");
      request.send(file);
    },
  },
};
