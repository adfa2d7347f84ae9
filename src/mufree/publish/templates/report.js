// What the page does beyond standing there: tables sort, figures answer to the pointer, print shows all. Nothing is loaded.
(function () {
  "use strict";
  var MISSING = "—";

  // The number that a cell starts with, in its first line: "−0.02", "[−0.1, 0.1]", "12 of 30", "at least 3", "< 0.001". NaN if none.
  function numberOf(text) {
    var first = text.trim().replace(/^(at least|<|\[)\s*/, "");
    var found = /^[+−-]?(2\^[−-]?\d+(\.\d+)?|\d+(\.\d+)?(e[+−-]?\d+)?)/.exec(first);
    if (!found) { return NaN; }
    var plain = found[0].replace(/−/g, "-");
    var power = /^2\^(.*)$/.exec(plain);
    return power ? Math.pow(2, Number(power[1])) : Number(plain);
  }

  function isMissing(text) { return text.trim() === "" || text.trim().charAt(0) === MISSING; }

  // Rows of a table in the order of a column; numbers as numbers if all that is there are numbers; what is missing last.
  function sorted(rows, column, ascending) {
    var cells = rows.map(function (row) { return row.cells[column].textContent; });
    var numeric = cells.every(function (text) { return isMissing(text) || !isNaN(numberOf(text)); });
    return rows.map(function (row, i) { return { row: row, text: cells[i], place: i }; }).sort(function (a, b) {
      var lacks = isMissing(a.text) - isMissing(b.text);
      if (lacks) { return lacks; }
      var order = numeric ? numberOf(a.text) - numberOf(b.text) : a.text.localeCompare(b.text, "en");
      return (isMissing(a.text) ? 0 : ascending ? order : -order) || a.place - b.place;
    }).map(function (entry) { return entry.row; });
  }

  function makeSortable(table) {
    var body = table.tBodies[0];
    if (body.rows.length < 2) { return; }
    var headers = Array.prototype.slice.call(table.tHead.rows[0].cells);
    headers.forEach(function (header, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      button.title = "Sort by this column";
      header.textContent = "";
      header.appendChild(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", function () {
        var ascending = header.getAttribute("aria-sort") !== "ascending";
        headers.forEach(function (other) { other.setAttribute("aria-sort", "none"); });
        header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sorted(Array.prototype.slice.call(body.rows), column, ascending).forEach(function (row) { body.appendChild(row); });
      });
    });
  }

  var REACH = 24; // pixels from the pointer within which a point answers

  // Shows what the point nearest to the pointer is. Points are [x, y, text], x and y in parts of the picture from its upper left.
  function makeAnswer(picture) {
    var points = JSON.parse(picture.querySelector("script").textContent).points;
    if (!points.length) { return; }
    var tip = document.createElement("div"), mark = document.createElement("div");
    tip.className = "tip";
    mark.className = "mark";
    tip.hidden = mark.hidden = true;
    picture.append(mark, tip);
    function show(event) {
      var box = picture.querySelector("img").getBoundingClientRect();
      var nearest = null, least = REACH;
      points.forEach(function (point) {
        var away = Math.hypot(box.left + point[0] * box.width - event.clientX, box.top + point[1] * box.height - event.clientY);
        if (away < least) { least = away; nearest = point; }
      });
      tip.hidden = mark.hidden = !nearest;
      if (!nearest) { return; }
      tip.textContent = nearest[2];
      mark.style.left = 100 * nearest[0] + "%";
      mark.style.top = 100 * nearest[1] + "%";
      tip.style.top = "calc(" + 100 * nearest[1] + "% + 12px)";
      var right = nearest[0] > 0.6;
      tip.style.left = right ? "auto" : "calc(" + 100 * nearest[0] + "% + 12px)";
      tip.style.right = right ? "calc(" + 100 * (1 - nearest[0]) + "% + 12px)" : "auto";
    }
    picture.addEventListener("pointermove", show);
    picture.addEventListener("pointerdown", show);
    picture.addEventListener("pointerleave", function () { tip.hidden = mark.hidden = true; });
  }

  function openAll(open) { document.querySelectorAll("details").forEach(function (each) { each.open = open || each.dataset.open === "1"; }); }

  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (each) { each.dataset.open = each.open ? "1" : ""; });
    openAll(true);
  });
  window.addEventListener("afterprint", function () { openAll(false); });
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll(".picture").forEach(makeAnswer);
})();
