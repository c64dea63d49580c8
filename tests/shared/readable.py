"""Whether the text of a page can be read: its contrast with what is behind it."""

CONTRASTS = """() => {
  const light = (c) => c.slice(0, 3).map((x) => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), low = [];
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("option, script")) continue;
    let behind = element;
    while (behind && parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const one = light(parts(getComputedStyle(element).color));
    const other = behind ? light(parts(getComputedStyle(behind).backgroundColor)) : 1;
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) low.push([ratio, element.className, walk.currentNode.data.trim().slice(0, 30)]);
  }
  return low;
}"""
"""Texts of a page with less contrast than WCAG 2.2 asks for (success criterion 1.4.3)."""
