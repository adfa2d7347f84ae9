// What the page does beyond standing there: tables sort, and plots answer to the pointer. Nothing is loaded.
(function () {
  "use strict";
  var MISSING = "—";

  // The number that a cell starts with, in its first line: "−0.02", "[−0.1, 0.1]", "12 of 30", "at least 3", "< 0.001". NaN if none.
  function numberOf(text) {
    var first = text.trim().split("\n")[0].replace(/^(at least|<|\[)\s*/, "");
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

  // The plot takes the picture's place, which stays to be unfolded. One that fails leaves the picture as it was.
  function draw(holder) {
    var source = JSON.parse(document.getElementById(holder.id + "-data").textContent);
    var kind = function () { return holder.clientWidth < 620 ? "narrow" : "wide"; };
    var settings = { displayModeBar: false, responsive: true, displaylogo: false, showTips: false };
    var shown = "";
    var show = function () {
      if (kind() === shown) { return; }
      shown = kind();
      Plotly.react(holder, source.data, JSON.parse(JSON.stringify(source.layouts[shown])), settings);
    };
    holder.hidden = false;
    show();
    window.addEventListener("resize", show);
    var picture = holder.parentNode.querySelector("details");
    if (picture) { picture.open = false; }
  }

  document.querySelectorAll("table.sortable").forEach(makeSortable);
  if (window.Plotly) { document.querySelectorAll(".plot").forEach(draw); }
})();
