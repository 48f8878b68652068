// Before and after under a divider, with zoom and pan. Places are shares of the photograph's sides.

const CLICK = 5;  // pixels that a finger may move in a click

export class Viewer extends EventTarget {
  #root = document.querySelector("#viewer");
  #before = document.querySelector("#before");
  #after = document.querySelector("#after");
  #divider = document.querySelector("#divider");
  cross = null;  // place of a cross that the arrow keys move
  #pointers = new Map();
  #view = { x: 0, y: 0, scale: 0 };  // scale 0: fitted
  #moved = 0;
  #holdsDivider = false;

  constructor() {
    super();
    for (const image of [this.#before, this.#after]) {
      image.addEventListener("load", () => { image.hidden = false; this.draw(); });
      image.addEventListener("error", () => { image.hidden = true; });
    }
    new ResizeObserver(() => this.draw()).observe(this.#root);
    this.#root.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), this.#inside(event));
    }, { passive: false });
    this.#root.addEventListener("dblclick", (event) => {
      if (this.cross || event.target.closest("#divider, #marks")) return;
      this.#view.scale ? this.fit() : this.full(this.#inside(event));
    });
    for (const [name, act] of [["pointerdown", this.#down], ["pointermove", this.#move],
      ["pointerup", this.#up], ["pointercancel", this.#up]]) {
      this.#root.addEventListener(name, act.bind(this));
    }
    this.#root.addEventListener("keydown", (event) => this.#key(event));
    this.split = 50;
  }

  // Show two pictures by their addresses; null for one that isn't there yet.
  show(before, after, name) {
    for (const [image, address] of [[this.#before, before], [this.#after, after]]) {
      if (image.getAttribute("src") !== address) {
        if (address) image.src = address; else image.removeAttribute("src");
        image.hidden = !address || (image.hidden && !image.complete);
      }
    }
    this.#before.alt = `${name}, before`;
    this.#after.alt = `${name}, in colour`;
    this.#root.classList.toggle("pending", !after);
    this.draw();
  }

  get image() { return this.#after; }
  get fitted() { return this.#view.scale === 0; }

  get split() { return Number(this.#divider.getAttribute("aria-valuenow")); }
  set split(percent) {
    const value = Math.min(100, Math.max(0, percent));
    this.#divider.ariaValueNow = Math.round(value);
    this.#divider.ariaValueText = `${Math.round(value)} % before`;
    this.#root.style.setProperty("--split", `${value}%`);
    const [before, after] = this.#root.querySelectorAll(".tag");
    [before.hidden, after.hidden] = [value < 10, value > 90];
  }

  // How strong the colours look: CSS's saturate is a blend of grey and colour, or goes beyond.
  set strength(factor) {
    this.#after.style.filter = factor === 1 ? "" : `saturate(${factor})`;
  }

  fit() { this.#view.scale = 0; this.draw(); }
  full(at) { this.zoom(1 / devicePixelRatio / this.#scale(), at); }

  // Zoom so that what is at a point of the viewer stays there.
  zoom(factor, at = [this.#root.clientWidth / 2, this.#root.clientHeight / 2]) {
    const [old, { x, y }] = [this.#scale(), this.#view];
    const scale = Math.min(16, old * factor);
    if (scale <= this.#fitting()) return this.fit();
    const ratio = scale / old;
    this.#view = { scale, x: at[0] - (at[0] - x) * ratio, y: at[1] - (at[1] - y) * ratio };
    this.draw();
  }

  // Pixels in the viewer of a place of the photograph, and the other way.
  toPixels({ x, y }) {
    const [width, height] = this.size;
    return [this.#view.x + x * width * this.#scale(), this.#view.y + y * height * this.#scale()];
  }

  toPlace([left, top]) {
    const [width, height] = this.size;
    return { x: (left - this.#view.x) / width / this.#scale(),
      y: (top - this.#view.y) / height / this.#scale() };
  }

  #inside(event) {
    const box = this.#root.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  get size() {
    const image = this.#before.naturalWidth ? this.#before : this.#after;
    return [image.naturalWidth || 1, image.naturalHeight || 1];
  }

  #fitting() {
    const [width, height] = this.size;
    return Math.min(this.#root.clientWidth / width, this.#root.clientHeight / height);
  }

  #scale() { return this.#view.scale || this.#fitting(); }

  draw() {
    const scale = this.#scale();
    const sides = [this.#root.clientWidth, this.#root.clientHeight];
    const size = this.size;
    const [x, y] = size.map((side, axis) => {
      const spare = sides[axis] - side * scale;
      return spare >= 0 ? spare / 2 : Math.min(0, Math.max(spare, this.#view["xy"[axis]]));
    });
    Object.assign(this.#view, { x, y });
    for (const image of [this.#before, this.#after]) {
      [image.style.width, image.style.height] = size.map((side) => `${side}px`);
      image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    }
    this.#root.classList.toggle("zoomed", !this.fitted);
    this.dispatchEvent(new Event("draw"));
  }

  #down(event) {
    if (event.target.closest("#marks") || event.button > 0) return;
    this.#root.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#inside(event));
    if (this.#pointers.size === 1) this.#moved = 0;
    this.#holdsDivider = Boolean(event.target.closest("#divider"));
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last) return;
    const here = this.#inside(event);
    const [dx, dy] = [here[0] - last[0], here[1] - last[1]];
    this.#moved += Math.hypot(dx, dy);
    if (this.#pointers.size === 2) {
      const [other] = [...this.#pointers].filter(([id]) => id !== event.pointerId).map((x) => x[1]);
      const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
      this.zoom(apart(here) / (apart(last) || 1), other);
    } else if (this.#moved > CLICK && (this.#holdsDivider || this.fitted)) {
      this.split = (here[0] / this.#root.clientWidth) * 100;
    } else if (this.#moved > CLICK) {
      this.#view.x += dx;
      this.#view.y += dy;
      this.draw();
    }
    this.#pointers.set(event.pointerId, here);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId) || event.type === "pointercancel") return;
    if (this.#moved <= CLICK && !this.#holdsDivider && !this.#pointers.size) {
      this.#pick(this.toPlace(this.#inside(event)));
    }
  }

  #pick(place) {
    if (Math.min(place.x, place.y) < 0 || Math.max(place.x, place.y) > 1) return;
    this.dispatchEvent(new CustomEvent("pick", { detail: place }));
  }

  #key(event) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
      ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (event.target === this.#divider && dx) {
      this.split += dx * (event.shiftKey ? 10 : 2);
    } else if (event.target !== this.#root || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (this.cross && (dx || dy)) {
      const step = event.shiftKey ? 0.002 : 0.02;
      this.cross = { x: Math.min(1, Math.max(0, this.cross.x + dx * step)),
        y: Math.min(1, Math.max(0, this.cross.y + dy * step)) };
      this.dispatchEvent(new Event("draw"));
    } else if (this.cross && event.key === "Enter") {
      this.#pick(this.cross);
    } else if (dx || dy) {
      this.#view.x -= dx * 40;
      this.#view.y -= dy * 40;
      this.draw();
    } else if ("+=".includes(event.key)) this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.full();
    else return;
    event.preventDefault();
  }
}
