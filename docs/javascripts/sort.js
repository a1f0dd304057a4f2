// A click on a table's head sorts its rows by that column, the largest first; a second click, the other way round.
document.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head) return;
  const body = head.closest("table").tBodies[0];
  const column = head.cellIndex;
  const up = head.dataset.sorted === "down";
  const value = (row) => row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [parseFloat(value(a)), parseFloat(value(b))];
    return isNaN(x) || isNaN(y) ? value(b).localeCompare(value(a)) : y - x;
  };
  for (const other of head.parentElement.cells) delete other.dataset.sorted;
  head.dataset.sorted = up ? "up" : "down";
  [...body.rows].sort((a, b) => (up ? -compare(a, b) : compare(a, b))).forEach((row) => body.append(row));
});
