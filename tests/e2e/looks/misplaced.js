// What is cut off, covered or out of reach. What scrolls by itself, or ends with an ellipsis, is meant to.
() => {
    const found = [];
    const name = (one) => one.outerHTML.slice(0, 120);
    const root = document.scrollingElement;
    if (root.scrollWidth > innerWidth) found.push(`the page is ${root.scrollWidth - innerWidth} px too wide`);
    const scrollers = (one) => {
        const boxes = [];
        for (let box = one.parentElement; box && box !== document.body; box = box.parentElement) {
            if (/auto|scroll|hidden/.test(getComputedStyle(box).overflow)) boxes.push(box.getBoundingClientRect());
        }
        return boxes;
    };
    const modal = document.querySelector("dialog[open], [popover]:popover-open");
    const shade = document.querySelector("#shade:not([hidden])");
    for (const one of document.querySelectorAll("button, input, select, textarea, a, summary, h1, h2, h3, label, td, th")) {
        const box = one.getBoundingClientRect();
        const isHidden = !one.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || box.width < 2;
        if (isHidden || one.closest(".visually-hidden, .skip, .katex, svg")) continue;
        const within = scrollers(one);
        if ((box.left < -1 || box.right > innerWidth + 1) && within.length === 0) found.push(`out of the page: ${name(one)}`);
        const style = getComputedStyle(one);
        const isCut = one.scrollWidth > one.clientWidth + 1 && style.display !== "inline" && style.overflowX === "visible";
        if (isCut && one.matches("button, summary, h1, h2, h3, label")) found.push(`cut off: ${name(one)}`);
        if (modal || shade || !one.matches("button, input, select, textarea, a, summary")) continue;
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        if (within.some((part) => x < part.left || x > part.right || y < part.top || y > part.bottom)) continue;
        const top = document.elementFromPoint(x, y);
        const isCovered = top && !one.contains(top) && !top.contains(one) && !top.closest("label")?.contains(one);
        const isFloating = top?.closest("header, #composer, #jump, #toast, #panel, #banner"); // what scrolls passes below these
        if (isCovered && (!isFloating || isFloating.contains(one))) found.push(`covered by ${name(top)}: ${name(one)}`);
    }
    return found;
}
