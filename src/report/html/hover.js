for (const svg of document.querySelectorAll('svg[data-series]')) {
  const [left, right, top, bottom] = svg.dataset.area.split(' ').map(Number);
  const [low, high] = svg.dataset.x.split(' ').map(Number);
  const series = JSON.parse(svg.dataset.series), legend = svg.nextElementSibling, names = legend.innerHTML;
  const cursor = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  cursor.setAttribute('class', 'cursor');
  cursor.setAttribute('y1', top);
  cursor.setAttribute('y2', bottom);
  const nearest = (points, x) => points.reduce((a, b) => Math.abs(b[0] - x) >= Math.abs(a[0] - x) ? a : b);
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const share = ((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width - left) / (right - left);
    const x = low + Math.min(1, Math.max(0, share)) * (high - low);
    const found = series.map(([name, style, points]) => [name, style, nearest(points, x)]);
    const at = found.map(f => f[2][0]).reduce((a, b) => Math.abs(b - x) >= Math.abs(a - x) ? a : b);
    const place = left + (high > low ? (at - low) / (high - low) : 0) * (right - left);
    cursor.setAttribute('x1', place);
    cursor.setAttribute('x2', place);
    svg.append(cursor);
    legend.textContent = at.toLocaleString() + ' images: ';
    for (const [name, style, [, y]] of found) {
      const item = document.createElement('span'), swatch = document.createElement('i');
      swatch.className = style;
      item.append(swatch, name + ' ' + Number(y.toPrecision(4)).toLocaleString(undefined, { maximumSignificantDigits: 4 }));
      legend.append(item, ' ');
    }
  });
  svg.addEventListener('pointerleave', () => { cursor.remove(); legend.innerHTML = names; });
}
