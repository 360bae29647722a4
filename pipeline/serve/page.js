"use strict";
// All that comes from the model or a file is set as text, never as HTML.

const MOST_BYTES = UPLOAD_LIMIT;
const MOST_BARS = 5;
const MOST_ANSWERS = 50; // more than anyone looks at, and few enough for the browser to hold their pictures

const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className ?? "";
  element.textContent = text ?? "";
  if (text) element.dir = "auto";
  return element;
}

// Two numbers with as many digits as it takes to tell them apart: 0.6299 is not "0.63, under 0.63".
function apart(low, high) {
  for (let digits = 2; digits < 7; digits++) {
    const texts = [low.toFixed(digits), high.toFixed(digits)];
    if (texts[0] !== texts[1]) return texts;
  }
  return [String(low), String(high)];
}

async function describeModel() {
  const contract = await (await fetch("/contract")).json();
  const count = contract.labels.length;
  document.title = `${contract.run}: try the model`;
  byId("run").textContent = contract.run;
  byId("about").textContent = `${contract.backbone}, ${count} ${count === 1 ? "class" : "classes"}`;
  const facts = {
    "data set": contract.dataset?.slice(0, 12),
    "MLflow run": contract.mlflow_run_id,
    "image size": contract.input?.image_size?.join(" × "),
    "confident from": contract.threshold > 0 ? contract.threshold.toFixed(3) : "any probability",
    "classes": contract.labels.join(", "),
  };
  for (const [name, value] of Object.entries(facts)) {
    if (value) byId("facts").append(make("dt", "", name), make("dd", "", value));
  }
  byId("more").hidden = false;
}

function addAnswer(file) {
  const item = make("li");
  const thumb = make("div", "thumb");
  const image = make("img");
  image.alt = "";
  image.decoding = "async";
  image.onerror = () => thumb.replaceChildren("no preview");
  image.src = URL.createObjectURL(file);
  thumb.append(image);
  const text = make("div", "text");
  text.append(make("p", "name", file.name || "pasted image"), make("p", "label note", "waiting"));
  item.append(thumb, text);
  byId("answers").prepend(item);
  while (byId("answers").children.length > MOST_ANSWERS) {
    const oldest = byId("answers").lastElementChild;
    const preview = oldest.querySelector("img");
    if (preview) URL.revokeObjectURL(preview.src);
    oldest.remove();
  }
  return item;
}

async function ask(file) {
  if (file.size > MOST_BYTES) {
    return { error: `over ${MOST_BYTES / 2 ** 20} MB; save the image smaller, or use: pipeline predict` };
  }
  let body;
  try {
    body = await file.arrayBuffer();
  } catch {
    return { error: "not a file that can be read; folders are for: pipeline predict" };
  }
  try {
    // Without a name and a type: the server looks at the bytes alone.
    return await (await fetch("/predict", { method: "POST", body })).json();
  } catch {
    return { error: "no answer; does pipeline serve still run?" };
  }
}

// Returns what is said aloud.
function showAnswer(item, answer) {
  const text = item.querySelector(".text");
  text.querySelector(".label").remove();
  if (answer.error) {
    item.classList.add("bad");
    text.append(make("p", "why", answer.error));
    return answer.error;
  }
  const ranked = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  let said = `${answer.label}, ${answer.probability.toFixed(3)}`;
  text.append(make("p", "label", answer.label));
  if (!answer.confident) {
    const [probability, threshold] = apart(answer.probability, answer.threshold);
    item.classList.add("unsure");
    said = `not confident: ${probability} is under the threshold ${threshold}`;
    text.append(make("p", "why", said));
    said = `${said}; likeliest ${answer.label}`;
  }
  const bars = make("ol", "bars");
  for (const [label, probability] of ranked.slice(0, MOST_BARS)) {
    const row = make("li");
    const bar = make("div", "bar");
    const filled = make("i");
    filled.style.width = `${100 * probability}%`;
    bar.append(filled);
    row.append(make("span", "", label), bar, make("span", "", probability.toFixed(3)));
    bars.append(row);
  }
  item.append(bars);
  const left = ranked.slice(MOST_BARS);
  if (left.length) {
    const rest = left.reduce((sum, [, probability]) => sum + probability, 0);
    item.append(make("p", "rest note", `${rest.toFixed(3)} on ${left.length} more`));
  }
  return said;
}

// One after the other, in the order in which they came, however they came.
let last = Promise.resolve();

function take(files) {
  const taken = [...files].slice(0, MOST_ANSWERS);
  const left = files.length - taken.length;
  const waiting = taken.map((file) => [file, addAnswer(file)]);
  for (const [file, item] of waiting) {
    last = last.then(async () => {
      byId("status").textContent = `${file.name || "pasted image"}: ${showAnswer(item, await ask(file))}`;
    });
  }
  if (left > 0) {
    last = last.then(() => {
      byId("status").textContent = `the first ${MOST_ANSWERS} of ${files.length}; for all of them: pipeline predict`;
    });
  }
}

byId("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => take([...event.clipboardData.files]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault(); // the browser would leave the page and show the file
  document.body.classList.remove("over");
  take([...event.dataTransfer.files]);
});

describeModel().catch(() => {
  byId("status").textContent = "no answer; does pipeline serve still run?";
});
