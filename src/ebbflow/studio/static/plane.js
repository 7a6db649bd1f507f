// A canvas of the plane: points, ways and arrows, in the colours of the theme.

/** Draws on `canvas` in coordinates of the plane, from -reach to reach. */
export function plane(canvas, reach = 2.4) {
  const side = 1000;
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d");
  let far = reach;
  const px = (x) => side / 2 + (x / far) * side / 2, py = (y) => side / 2 - (y / far) * side / 2;
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(`--${name}`).trim();
  return {
    clear(next = reach) { far = next; pen.clearRect(0, 0, side, side); pen.globalAlpha = 1; },
    points(list, name, size = 5, alpha = 1) {
      pen.fillStyle = colour(name);
      pen.globalAlpha = alpha;
      for (const [x, y] of list) { pen.beginPath(); pen.arc(px(x), py(y), size, 0, 7); pen.fill(); }
      pen.globalAlpha = 1;
    },
    /** Ways up to entry `last`: list[step][point]. */
    ways(list, last, name, alpha = 0.35) {
      pen.strokeStyle = colour(name);
      pen.globalAlpha = alpha;
      pen.lineWidth = 2;
      for (let i = 0; i < list[0].length; i += 1) {
        pen.beginPath();
        for (let k = 0; k <= last; k += 1) pen[k ? "lineTo" : "moveTo"](px(list[k][i][0]), py(list[k][i][1]));
        pen.stroke();
      }
      pen.globalAlpha = 1;
    },
    lines(from, to, name, alpha = 0.5) {
      pen.strokeStyle = colour(name);
      pen.globalAlpha = alpha;
      pen.lineWidth = 2;
      from.forEach(([x, y], i) => { pen.beginPath(); pen.moveTo(px(x), py(y)); pen.lineTo(px(to[i][0]), py(to[i][1])); pen.stroke(); });
      pen.globalAlpha = 1;
    },
    arrow([x, y], [dx, dy], name, label) {
      const x1 = px(x + dx), y1 = py(y + dy), angle = Math.atan2(y1 - py(y), x1 - px(x));
      pen.strokeStyle = pen.fillStyle = colour(name);
      pen.lineWidth = 5;
      pen.beginPath(); pen.moveTo(px(x), py(y)); pen.lineTo(x1, y1); pen.stroke();
      pen.beginPath(); pen.moveTo(x1 + 12 * Math.cos(angle), y1 + 12 * Math.sin(angle));
      for (const turn of [2.4, -2.4]) pen.lineTo(x1 + 16 * Math.cos(angle + turn), y1 + 16 * Math.sin(angle + turn));
      pen.fill();
      pen.font = "600 30px system-ui, sans-serif";
      pen.fillText(label, Math.max(8, Math.min(side - 150, x1 + 20 * Math.cos(angle) + 8)), Math.max(34, Math.min(side - 12, y1 + 26 * Math.sin(angle))));
    },
    at(event) {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width * 2 - 1) * far, (1 - (event.clientY - box.top) / box.height * 2) * far];
    },
  };
}
