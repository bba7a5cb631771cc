// A chat is dragged to a folder, to the pinned ones, back among the others, or to a new folder.

const TYPE = "application/x-omni-chat";

/** Rows are `li[data-id]`; what stands in an element with `data-place` goes to that place. `onDrop(id, place)`; `onEnd()`. */
export function wireDrag(list, { onDrop, onEnd }) {
  let over = null;
  const mark = (target) => {
    over?.classList.remove("over");
    over = target;
    over?.classList.add("over");
  };
  const end = () => {
    mark(null);
    list.classList.remove("dragging");
  };

  list.addEventListener("dragstart", (event) => {
    const row = event.target.closest("li[data-id]");
    if (!row) return;
    event.dataTransfer.setData(TYPE, row.dataset.id);
    event.dataTransfer.effectAllowed = "move";
    setTimeout(() => list.classList.add("dragging")); // a list that changes at once ends the drag
  });
  list.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes(TYPE)) return;
    mark(event.target.closest("[data-place]"));
    if (over) event.preventDefault();
  });
  list.addEventListener("dragleave", (event) => list.contains(event.relatedTarget) || mark(null));
  list.addEventListener("drop", (event) => {
    const id = event.dataTransfer.getData(TYPE);
    if (!id || !over) return;
    event.preventDefault();
    const { place } = over.dataset;
    end();
    onDrop(id, place);
  });
  list.addEventListener("dragend", () => {
    end();
    onEnd();
  });
}
