// A brush on a canvas: paint on nothing, of which a mask is made.

/** Seen on dark pictures and on light ones. */
const PAINT = "#e6007e";

/** Paints on a canvas that lies over a picture. */
export class Brush {
  /** `size()`: the brush's radius as a share of the shorter side; `erases()`; `changed(undoable, painted)`. */
  constructor(canvas, { size, erases, changed }) {
    Object.assign(this, { canvas, size, erases, changed });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    /** Everything that was done, oldest first: strokes, loaded masks, "clear". */
    this.deeds = [];
    this.place = null;
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.aim(null));
  }

  /** Begins anew, for a picture of this size. */
  resize(width, height) {
    if (this.canvas.width === width && this.canvas.height === height && this.deeds.length === 0) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.deeds = [];
    this.redraw();
  }

  /** Where a pointer is, in pixels of the canvas. */
  at({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const { width, height } = this.canvas;
    return [(clientX - box.left) / box.width * width, (clientY - box.top) / box.height * height];
  }

  radius() {
    return Math.max(0.5, this.size() * Math.min(this.canvas.width, this.canvas.height) / 2);
  }

  begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.place = null;
    this.stroke = { erase: this.erases(), radius: this.radius(), points: [this.at(event)] };
    this.deeds.push(this.stroke);
    this.redraw();
  }

  move(event) {
    if (!this.stroke) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) this.stroke.points.push(this.at(one));
    this.stroke.points.push(this.at(event));
    this.redraw();
  }

  end() {
    this.stroke = null;
  }

  /** Arrows move, space paints. */
  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height } = this.canvas;
    const [x, y] = this.place ?? [width / 2, height / 2];
    if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      const far = this.radius() / 2;
      this.aim([Math.min(Math.max(x + dx * far, 0), width), Math.min(Math.max(y + dy * far, 0), height)]);
    } else if (event.key === " ") {
      this.deeds.push({ erase: this.erases(), radius: this.radius(), points: [[x, y]] });
      this.aim([x, y]);
    } else {
      return;
    }
    event.preventDefault();
  }

  /** Shows where the keyboard's brush is. */
  aim(place) {
    this.place = place;
    this.redraw();
  }

  undo() {
    this.deeds.pop();
    this.redraw();
  }

  clear() {
    this.deeds.push("clear");
    this.redraw();
  }

  /** Paints what is bright in a mask. */
  async load(url) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    const canvas = document.createElement("canvas");
    canvas.width = this.canvas.width;
    canvas.height = this.canvas.height;
    const context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
    context.putImageData(pixels, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = PAINT;
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.deeds.push(canvas);
    this.redraw();
  }

  redraw() {
    const { context, canvas } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    let painted = false;
    for (const deed of this.deeds) {
      if (deed === "clear") context.clearRect(0, 0, canvas.width, canvas.height);
      else if (deed instanceof HTMLCanvasElement) context.drawImage(deed, 0, 0);
      else this.draw(deed);
      painted = deed !== "clear" && (painted || !deed.erase);
    }
    this.painted = painted;
    if (this.place) this.ring(this.place);
    this.changed(this.deeds.length > 0, painted);
  }

  draw({ erase, radius, points }) {
    const { context } = this;
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.fillStyle = context.strokeStyle = PAINT;
    context.lineWidth = 2 * radius;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.arc(...points[0], radius, 0, 2 * Math.PI);
    context.fill();
    if (points.length > 1) {
      context.beginPath();
      points.forEach((point) => context.lineTo(...point));
      context.stroke();
    }
    context.globalCompositeOperation = "source-over";
  }

  ring([x, y]) {
    const { context } = this;
    for (const [colour, width] of [["#000", 3], ["#fff", 1]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * this.canvas.width / (this.canvas.clientWidth || 1);
      context.beginPath();
      context.arc(x, y, this.radius(), 0, 2 * Math.PI);
      context.stroke();
    }
  }

  /** The mask as a `data:` URL, white on black; null if nothing is painted. */
  picture() {
    const place = this.place;
    this.aim(null);
    const { width, height } = this.canvas;
    const { data } = this.context.getImageData(0, 0, width, height);
    let any = false;
    for (let i = 3; i < data.length && !any; i += 4) any = data[i] > 127;
    let url = null;
    if (any) {
      const mask = document.createElement("canvas");
      mask.width = width;
      mask.height = height;
      const context = mask.getContext("2d");
      context.drawImage(this.canvas, 0, 0);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, width, height);
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, height);
      url = mask.toDataURL("image/png");
    }
    if (place) this.aim(place);
    return url;
  }
}
