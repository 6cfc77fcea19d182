// What is wider than its place is scrolled by whoever has no mouse too, once it can be reached with the keyboard.
const reach = () => {
  for (const each of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .formula")) {
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
    else each.removeAttribute("tabindex");
  }
};
addEventListener("load", reach);
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true); // what is unfolded is seen only then
