// A list kept in step with the data: one element per key, made once, so a focused button stays where it is.

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
