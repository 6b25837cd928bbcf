// What scrolls sideways can be reached with the Tab key, in browsers too that do not see to it themselves.
const observer = new ResizeObserver((boxes) => {
  for (const { target } of boxes) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
document.querySelectorAll("pre, .table-wrapper, .math-wrapper").forEach((box) => observer.observe(box));
