"use strict";
for (const bar of document.querySelectorAll(".filters")) {
  const section = document.getElementById(bar.dataset.for);
  const cards = [...section.querySelectorAll("article")];
  const show = () => {
    const reason = bar.querySelector(".reason").value;
    const wanted = [...bar.querySelectorAll(".group")].map((select) => select.value).filter(Boolean);
    let count = 0;
    for (const card of cards) {
      const groups = card.dataset.groups.split(" ");
      const fits = (!reason || card.dataset.reasons.split(" ").includes(reason)) && wanted.every((key) => groups.includes(key));
      card.hidden = !fits;
      count += fits;
    }
    bar.querySelector(".count").textContent = count === 1 ? "1 query" : `${count} queries`;
  };
  bar.addEventListener("change", show);
}
