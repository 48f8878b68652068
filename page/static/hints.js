// Hints: what colour the thing at a place has. Marks on the photograph, and a palette for one.

import { colourAt, make } from "./files.js";

// What people look for in old photographs, as it looks in daylight.
const COMMON = Object.entries({
  "light skin": "#e3b394", "dark skin": "#8d5a3c", "dark hair": "#4a3425", "fair hair": "#c9a066",
  wood: "#8a5a33", brick: "#a4503c", sand: "#cbb083", leaves: "#5f7f35", "dark green": "#2f5a3e",
  sky: "#7fb0de", denim: "#3d5a8c", navy: "#26325f", purple: "#6c4482", red: "#b3262e",
  pink: "#dd8fa5", yellow: "#dfb637",
});
const place = (hint) => (hint.points ? { x: hint.points[0][0], y: hint.points[0][1] } : hint);
const hex = (hint) => (hint.color ?? hint.colour)?.replace(/^#?/, "#");  // null: grey

export class Hints {
  #marks = document.querySelector("#marks");
  #box = document.querySelector("#palette");
  #cross = document.querySelector("#cross");
  #hints = [];
  #chosen = null;  // index of the hint whose palette is open; past the end: a new one
  #fresh = null;  // place of a new one
  #sampling = false;

  // `change(hints)` is told each change; `likely(place)` finds [name, colour] for a palette.
  constructor(viewer, change, likely) {
    Object.assign(this, { viewer, change, likely });
    viewer.addEventListener("draw", () => this.#draw());
    viewer.addEventListener("pick", ({ detail }) => {
      if (this.#sampling) {
        colourAt(viewer.image, detail).then((color) => this.#colour({ color }));
      } else if (viewer.cross) {
        this.#open(this.#hints.length, detail);
      }
    });
    this.#box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("#palette, #stage")) this.close();
    });
  }

  show(hints) {
    if (hints === this.#hints) return;
    this.#hints = hints;
    const had = this.#marks.contains(document.activeElement)
      ? [...this.#marks.children].indexOf(document.activeElement) : -1;
    this.#marks.replaceChildren(...hints.map((hint, index) => this.#mark(hint, index)));
    this.#marks.children[Math.min(had, hints.length - 1)]?.focus();
    if (this.#chosen >= hints.length && !this.#fresh) this.close();
    this.#draw();
  }

  close() {
    if (this.#box.hidden) return;
    const mark = this.#marks.children[this.#chosen];
    [this.#chosen, this.#fresh, this.#sampling] = [null, null, false];
    const held = this.#box.contains(document.activeElement);
    this.#box.hidden = true;
    if (held) (mark ?? document.querySelector("#viewer")).focus();
    this.#draw();
  }

  #draw() {
    this.#hints.forEach((hint, index) => this.#put(this.#marks.children[index], place(hint)));
    const cross = this.#fresh ?? this.viewer.cross;
    this.#cross.hidden = !cross;
    if (cross) this.#put(this.#cross, cross);
    this.#cross.classList.toggle("fresh", Boolean(this.#fresh));
  }

  #put(element, where) {
    if (!element) return;
    const [x, y] = this.viewer.toPixels(where);
    Object.assign(element.style, { left: `${x}px`, top: `${y}px` });
  }

  #mark(hint, index) {
    const what = hex(hint) ?? "grey";
    const mark = make("button", { className: "mark" });
    mark.setAttribute("aria-label", `Correction ${index + 1}, ${what}`);
    mark.style.setProperty("--colour", hex(hint) ?? "#808080");
    let start = null;
    let moved = null;
    mark.addEventListener("pointerdown", (event) => {
      mark.setPointerCapture(event.pointerId);
      [start, moved] = [[event.clientX, event.clientY], null];
    });
    mark.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [dx, dy] = [event.clientX - start[0], event.clientY - start[1]];
      if (!moved && Math.hypot(dx, dy) < 5) return;
      const [x, y] = this.viewer.toPixels(place(hint));
      moved = this.viewer.toPlace([x + dx, y + dy]);
      this.#put(mark, moved);
    });
    mark.addEventListener("pointerup", () => {
      if (start && moved) this.#move(index, moved);
      else if (start) this.#open(index);
      start = null;
    });
    mark.addEventListener("click", (event) => { if (!event.detail) this.#open(index); });
    mark.addEventListener("keydown", (event) => {
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1],
        ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      const step = event.shiftKey ? 0.002 : 0.01;
      const { x, y } = place(hint);
      if (dx || dy) this.#move(index, { x: x + dx * step, y: y + dy * step });
      else if (event.key === "Delete" || event.key === "Backspace") this.#remove(index);
      else return;
      event.preventDefault();
    });
    return mark;
  }

  #move(index, where) {
    const hint = this.#hints[index];
    const old = place(hint);
    const inside = ([x, y]) => [x, y].map((one) => Number(Math.min(1, Math.max(0, one)).toFixed(4)));
    const [x, y] = inside([where.x, where.y]);
    const points = hint.points?.map(([px, py]) => inside([px + x - old.x, py + y - old.y]));
    this.change(this.#hints.with(index, points ? { ...hint, points } : { ...hint, x, y }));
  }

  #remove(index) {
    this.close();
    this.change(this.#hints.toSpliced(index, 1));
  }

  // Give the chosen hint a colour, or {neutral: true}.
  #colour(colour) {
    if (this.#chosen === null) return;
    this.#sampling = false;
    this.#box.querySelector("[aria-pressed]")?.setAttribute("aria-pressed", false);
    const old = this.#hints[this.#chosen] ?? { ...this.#fresh, radius: 0.02 };
    const { color: _, colour: __, neutral: ___, ...where } = old;
    const hints = [...this.#hints];
    hints[this.#chosen] = { ...where, ...colour };
    this.#fresh = null;
    this.change(hints);
  }

  async #open(index, fresh = null) {
    this.#chosen = index;
    this.#fresh = fresh && { x: Number(fresh.x.toFixed(4)), y: Number(fresh.y.toFixed(4)) };
    this.#draw();
    const where = this.#fresh ?? place(this.#hints[index]);
    const swatches = (title, list) => make("div", {}, make("h3", { textContent: title }),
      make("div", { className: "swatches" }, ...list.map(([name, color]) => {
        const swatch = make("button", { title: name, onclick: () => this.#colour({ color }) });
        swatch.setAttribute("aria-label", name);
        swatch.style.background = color;
        return swatch;
      })));
    const given = this.#hints[index] && hex(this.#hints[index]);
    const typed = make("input", { value: given ?? "", placeholder: "#7a2f2f",
      maxLength: 7, spellcheck: false });
    typed.setAttribute("aria-label", "Colour as hex");
    typed.addEventListener("change", () => {
      const color = typed.value.trim().toLowerCase().replace(/^#?/, "#");
      const right = /^#[0-9a-f]{6}$/.test(color);
      typed.setCustomValidity(right ? "" : "Six hex digits, such as #7a2f2f");
      if (typed.reportValidity()) this.#colour({ color });
    });
    const wheel = make("input", { type: "color", value: given ?? "#a06040" });
    wheel.setAttribute("aria-label", "Any colour");
    wheel.addEventListener("change", () => this.#colour({ color: wheel.value }));
    const sample = make("button", { textContent: "Eyedropper", onclick: () => {
      this.#sampling = !this.#sampling;
      sample.setAttribute("aria-pressed", this.#sampling);
    } });
    sample.title = "Take a colour from elsewhere in the photograph";
    const remove = () => (this.#hints[index] ? this.#remove(index) : this.close());
    const buttons = [["Keep grey", () => this.#colour({ neutral: true })], ["Remove", remove],
      ["Done", () => this.close()]];
    const here = make("div", { className: "here" });
    this.#box.replaceChildren(here, swatches("Common", COMMON),
      make("div", { className: "buttons" }, typed, wheel),
      make("div", { className: "buttons" }, sample,
        ...buttons.map(([textContent, onclick]) => make("button", { textContent, onclick }))));
    this.#box.hidden = this.#sampling = false;
    this.#box.parentElement.scrollIntoView({ block: "nearest" });
    const [left] = this.viewer.toPixels(where);
    this.#box.classList.toggle("left", left > this.#box.parentElement.clientWidth / 2);
    this.#box.querySelector(".swatches button").focus();
    const list = await this.likely(where);
    if (list.length) here.replaceChildren(swatches("Likely here", list));
  }
}
