// A list with one element per key, created once and then updated, so that a button keeps its focus.

export class Rows {
  /** `make(item)` builds an element, `update(element, item)` fills it. */
  constructor(parent, { key, make, update }) {
    Object.assign(this, { parent, key, make, update });
    this.elements = new Map();
  }

  show(items) {
    const wanted = new Set(items.map(this.key));
    for (const [key, element] of this.elements) {
      if (wanted.has(key)) continue;
      element.remove();
      this.elements.delete(key);
    }
    items.forEach((item, index) => {
      const key = this.key(item);
      if (!this.elements.has(key)) this.elements.set(key, this.make(item));
      const element = this.elements.get(key);
      this.update(element, item);
      if (this.parent.children[index] !== element) this.parent.insertBefore(element, this.parent.children[index] ?? null);
    });
  }
}
