// A canvas that is painted on, by pointer or by keys: the mask of what is to be made anew.
import { h } from "./dom.js";
import { t } from "./words.js";

const SIDE = 256, BRUSH = SIDE / 11, MOVE = 16;

/** `source` tells the picture under the paint. */
export function painter(source) {
  const node = h("canvas", { class: "big", width: SIDE, height: SIDE, hidden: true, tabindex: 0, role: "img", "aria-label": t("paintKeys") });
  let painting = null, at = [SIDE / 2, SIDE / 2];

  function clear() {
    const pen = node.getContext("2d"), picture = new Image();
    painting = new OffscreenCanvas(SIDE, SIDE);
    painting.getContext("2d").fillRect(0, 0, SIDE, SIDE);
    pen.imageSmoothingEnabled = false;
    picture.onload = () => pen.drawImage(picture, 0, 0, SIDE, SIDE);
    picture.src = source();
  }
  function stroke(to) {
    for (const [canvas, colour] of [[painting, "#fff"], [node, "rgb(255 80 60 / .55)"]]) {
      const pen = canvas.getContext("2d");
      pen.strokeStyle = colour;
      pen.lineWidth = 2 * BRUSH;
      pen.lineCap = "round";
      pen.beginPath();
      pen.moveTo(...at);
      pen.lineTo(...to);
      pen.stroke();
    }
    at = to;
  }
  const place = (event) => { const box = node.getBoundingClientRect(); return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE]; };
  node.addEventListener("pointerdown", (event) => { node.setPointerCapture(event.pointerId); at = place(event); stroke(at); });
  node.addEventListener("pointermove", (event) => { if (event.buttons && painting) stroke(place(event)); });
  node.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    stroke(at.map((value, i) => Math.min(SIDE, Math.max(0, value + MOVE * move[i]))));
  });
  async function mask(picture) {
    const size = await createImageBitmap(picture), small = new OffscreenCanvas(size.width, size.height);
    small.getContext("2d").drawImage(painting, 0, 0, size.width, size.height);
    return small.convertToBlob({ type: "image/png" });
  }
  return { node, clear, mask, open: () => { node.hidden = false; clear(); }, close: () => { node.hidden = true; } };
}
