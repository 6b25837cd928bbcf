// The page: pictures go in, answers come out. Its words stand in texts.js, the network in network.js.

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(`#demo ${selector}`)];
const { classes, pictures, run: chooser } = PICTURES[NETWORK.data];
const square = { x: 16, y: 16 }, place = { x: 16, y: 16 }; // the middles of the grey square and of the window
let picture, known; // numbers [3 x 32 x 32] in 0..1; what is known of them: label and index, if anything
let latest; // what is known of the picture that was chosen last: it may still be loading
let first, answer; // the first layer; what `forward` gave, with its `pixels` and `seconds`, and what is known of them
let isAsking = false, isStale = false;
let language = new URLSearchParams(location.search).get("lang") ?? navigator.language.slice(0, 2);
if (!Object.hasOwn(TEXTS, language)) language = "en";

// The network computes in a worker, so that the page does not freeze. From file:// only a Blob can become one.
const work = `let layers;
onmessage = ({ data }) => {
  if (!layers) return postMessage((layers = data.map(unpack))[0]);
  const began = performance.now(), answer = forward(layers, data);
  postMessage({ ...answer, pixels: data, seconds: (performance.now() - began) / 1000 });
};`;
const functions = [convolve, pad, relu, maxPool, linear, forward, unpack, bytes];
const worker = new Worker(URL.createObjectURL(new Blob([functions.join("\n"), work])));
const waiting = []; // the worker answers in the order in which it was asked
worker.onmessage = ({ data }) => waiting.shift()(data);

function ask(data) {
  worker.postMessage(data);
  return new Promise((resolve) => waiting.push(resolve));
}

/** Show the picture at once, and the answer when it comes. Of what changes meanwhile only the last is asked. */
async function update() {
  drawPicture($("seen"), changed());
  all("#sliders [type=range]").forEach((slider) => (slider.previousElementSibling.textContent = slider.value));
  isStale = true;
  if (isAsking) return;
  for (isAsking = true; isStale; showAnswer()) {
    isStale = false;
    const about = known;
    answer = { ...(await ask(changed())), about };
  }
  isAsking = false;
}

/** What the network sees of a picture of any size: its middle square at 32x32, on white where it is transparent. */
async function see(source) {
  // Two steps: of a cut and a change of size at once, or of drawImage, some browsers make single pixels, not means.
  const whole = await createImageBitmap(source), side = Math.min(whole.width, whole.height);
  const middle = await createImageBitmap(whole, (whole.width - side) / 2, (whole.height - side) / 2, side, side);
  const bitmap = await createImageBitmap(middle, { resizeWidth: 32, resizeHeight: 32, resizeQuality: "high" });
  const context = new OffscreenCanvas(32, 32).getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, 32, 32);
  context.drawImage(bitmap, 0, 0);
  for (const each of [whole, middle, bitmap]) each.close();
  const { data } = context.getImageData(0, 0, 32, 32); // red, green, blue, opacity of pixel after pixel
  return Float32Array.from({ length: 3072 }, (_, i) => data[4 * (i % 1024) + Math.floor(i / 1024)] / 255);
}

/** Take a file, an image of the page or the camera's picture; `about` is what is known of it. */
async function take(source, about = {}) {
  latest = about;
  try {
    await source.decode?.(); // an image of the page may still be loading
    const seen = await see(source);
    if (latest !== about) return;
    [picture, known] = [seen, about];
    closeCamera();
    if (!about.src) all("#pictures input").forEach((input) => (input.checked = false));
    update();
    write();
  } catch {
    if (latest === about) write("broken");
  }
}

/** A place outside of 0..31 is taken from its mirror image: -1 is 1, 32 is 30. */
const mirror = (at) => 31 - Math.abs(31 - Math.abs(at));

/** The picture as the sliders change it. */
function changed() {
  const [right, down, light, blur, cover] = all("#sliders [type=range]").map((slider) => Number(slider.value));
  let pixels = picture.map((_, i) => {
    const x = (i % 32) - right, y = (Math.floor(i / 32) % 32) - down, plane = i - (i % 1024);
    if ($("black").checked && (x !== mirror(x) || y !== mirror(y))) return 0;
    return Math.min(light * picture[plane + 32 * mirror(y) + mirror(x)], 1);
  });
  if (blur) pixels = blurred(blurred(pixels, blur, 1), blur, 32);
  const isCovered = (at, middle) => at >= middle - cover / 2 && at < middle + cover / 2;
  return pixels.map((v, i) => (isCovered(i % 32, square.x) && isCovered(Math.floor(i / 32) % 32, square.y) ? 0.5 : v));
}

/** Gaussian blur along rows (step 1) or columns (step 32); `sigma` in pixels. */
function blurred(pixels, sigma, step) {
  const offsets = Array.from({ length: 19 }, (_, i) => i - 9);
  const weights = softmax(offsets.map((d) => -((d / sigma) ** 2) / 2)); // powers of e that add up to 1, here too
  return pixels.map((_, i) => {
    const at = Math.floor(i / step) % 32;
    return offsets.reduce((sum, d, k) => sum + weights[k] * pixels[i + (mirror(at + d) - at) * step], 0);
  });
}

/** Fill a canvas; `colour(x, y)` is red, green, blue in 0..255. */
function draw(canvas, width, height, colour) {
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set([...colour(i % width, Math.floor(i / width)), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

const drawPicture = (canvas, pixels) =>
  draw(canvas, 32, 32, (x, y) => [0, 1024, 2048].map((plane) => 255 * pixels[plane + 32 * y + x]));
const signed = (value) => // -1..1: blue, white, red
  [-1, 0, 1].map((channel) => 250 - 190 * (channel ? Math.max(0, channel * value) : Math.abs(value)));
const positive = (value) => [255 * value, 32 + 202 * value, 76 - 6 * value]; // 0..1: dark blue to yellow

/** All maps of a block, in rows. The largest hundredth of the values has one colour. */
function drawMaps(canvas, maps, size) {
  const step = size + 1, columns = 256 / step, rows = maps.length / (size * size) / columns; // a line between two maps
  const top = maps.slice().sort()[Math.floor(0.99 * maps.length)] || 1;
  draw(canvas, 256, rows * step, (x, y) => {
    const map = Math.floor(y / step) * columns + Math.floor(x / step), column = x % step, row = y % step;
    return column < size && row < size ? positive(maps[(map * size + row) * size + column] / top) : [0, 0, 0];
  });
}

function showAnswer() {
  const probabilities = softmax(answer.logits), best = probabilities.indexOf(Math.max(...probabilities));
  all("#bars li").forEach((bar, i) => {
    bar.style.setProperty("--p", probabilities[i]);
    bar.className = `${i === best ? "best" : ""} ${i === answer.about.label ? "label" : ""}`;
    [bar.firstChild.textContent, bar.lastChild.textContent] = [nameOf(i), probabilities[i].toFixed(3)];
  });
  const verdict = answer.about.src ? (best === answer.about.label ? "right_" : "wrong") : "own";
  const values = { answer: nameOf(best), p: probabilities[best].toFixed(2), label: nameOf(answer.about.label) };
  $("verdict").textContent = text(verdict, values);
  $("took").textContent = text("took", { seconds: answer.seconds.toFixed(2) });
  answer.blocks.forEach(({ maps, size }, i) => {
    const { firstChild: canvas, lastChild: caption } = all("#blocks figure")[i];
    drawMaps(canvas, maps, size);
    caption.textContent = canvas.ariaLabel = text("block", { block: i + 1, count: maps.length / (size * size), size });
  });
  showProduct();
}

/** Window x kernel = number, at `place`: 27 pixels and 27 weights, the sums of their products, and what they give. */
function showProduct() {
  const kernel = Number($("kernel").value), map = answer.first.subarray(1024 * kernel, 1024 * (kernel + 1));
  const weights = first.weight.subarray(27 * kernel, 27 * (kernel + 1));
  const [most, largest] = [map, weights].map((values) => Math.max(...values.map(Math.abs)));
  $("kernel").previousElementSibling.textContent = kernel;
  drawPicture($("under"), answer.pixels);
  draw($("map"), 32, 32, (x, y) => signed(map[32 * y + x] / most));
  $("places").style.cssText = `--x: ${place.x}; --y: ${place.y}`;
  const numbers = { red: 0, green: 0, blue: 0, bias: first.bias[kernel], sum: map[32 * place.y + place.x] };
  weights.forEach((weight, i) => {
    const channel = Math.floor(i / 9), x = place.x + (i % 3) - 1, y = place.y + (Math.floor(i / 3) % 3) - 1;
    const isInside = x === mirror(x) && y === mirror(y); // around the picture lie zeros
    const pixel = isInside ? answer.pixels[1024 * channel + 32 * y + x] : 0;
    paint(all("#numbers .window b")[i], pixel, [255 * pixel, 255 * pixel, 255 * pixel]);
    paint(all("#numbers .kernel b")[i], weight, signed(weight / largest));
    numbers[["red", "green", "blue"][channel]] += pixel * weight;
  });
  numbers.relu = Math.max(numbers.sum, 0);
  for (const key in numbers) numbers[key] = rounded(numbers[key]);
  all("#numbers .value").forEach((cell, channel) => (cell.textContent = Object.values(numbers)[channel]));
  $("sum").textContent = text("sum", numbers);
}

const rounded = (number) => number.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");

function paint(cell, number, [red, green, blue]) {
  cell.textContent = rounded(number);
  cell.style.background = `rgb(${red}, ${green}, ${blue})`;
  const luminance = 0.21 * (red / 255) ** 2.2 + 0.72 * (green / 255) ** 2.2 + 0.07 * (blue / 255) ** 2.2;
  cell.style.color = luminance > 0.18 ? "black" : "white"; // where both are as easy to read
}

const text = (key, values) => TEXTS[language][key].replace(/\{(\w+)\}/g, (_, value) => values[value]);
const nameOf = (label) => TEXTS[language].classes[classes[label]] ?? classes[label];

/** Write all words of the page in its language; `problem` is what to say about a file or the camera. */
function write(problem) {
  const title = document.querySelector("h1"), values = { ...NETWORK, chooser, ...known };
  $("demo").lang = title.lang = language;
  title.firstChild.data = text("title");
  Object.assign(values, { data: text(NETWORK.data), accuracy: NETWORK.accuracy.toFixed(4) });
  all("[data-text]").forEach((element) => (element.textContent = text(element.dataset.text, values)));
  all("[data-label]").forEach((element) => (element.ariaLabel = text(element.dataset.label)));
  all(".languages button").forEach((button) => (button.ariaPressed = button.value === language));
  all("#pictures img").forEach((image, i) => (image.alt = nameOf(pictures[i].label)));
  $("lesson").href = `../notebooks/${language === "ko" ? "ko/" : ""}03_model_shapes.html`;
  $("camera").textContent = text($("video").hidden ? "camera" : "shoot");
  $("problem").textContent = problem ? text(problem) : "";
  $("source").textContent = known ? text(`source${pictures.indexOf(known) % 3}`, values) : "";
  if (answer) showAnswer();
}

/** The pointer, or the arrow keys, move `point` over a canvas of 32x32. */
function move(canvas, point, isMeant, then) {
  const to = (x, y) => {
    [point.x, point.y] = [x, y].map((at) => Math.max(0, Math.min(31, Math.floor(at))));
    then();
  };
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.onkeydown = (event) => {
    if (!(event.key in arrows)) return;
    event.preventDefault();
    to(point.x + arrows[event.key][0], point.y + arrows[event.key][1]);
  };
  canvas.onpointerdown = canvas.onpointermove = (event) => {
    const scale = 32 / canvas.clientWidth;
    if (isMeant(event)) to(event.offsetX * scale, event.offsetY * scale);
  };
}

/** Show what the camera sees, or take its picture. */
async function shoot() {
  const video = $("video");
  $("camera").onclick = null; // a second click while it opens would open a second one
  try {
    if (video.hidden) {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      await video.play();
      video.hidden = false;
      write();
    } else await take(video);
  } catch {
    closeCamera();
    write("noCamera");
  }
  $("camera").onclick = shoot;
}

function closeCamera() {
  $("video").srcObject?.getTracks().forEach((track) => track.stop());
  $("video").hidden = true;
}

async function begin() {
  $("pictures").innerHTML += pictures.map(({ src }, i) => `<label><input type="radio" name="picture" value="${i}">
    <img src="${src}" width="32" height="32"></label>`).join("");
  $("bars").innerHTML = classes.map(() => "<li><span></span><i></i><span></span></li>").join("");
  $("blocks").innerHTML = '<figure><canvas role="img"></canvas><figcaption></figcaption></figure>'.repeat(5);
  const grid = (kind) => `<span class="${kind}">${"<b></b>".repeat(9)}</span>`;
  $("numbers").innerHTML = ["red", "green", "blue"].map((colour) => `<p><span data-text="${colour}"></span>
    ${grid("window")} × ${grid("kernel")} = <span class="value"></span></p>`).join("");

  const choose = (i) => take(all("#pictures img")[i], pictures[i]);
  all("#pictures input").forEach((input, i) => (input.onchange = () => choose(i)));
  $("camera").onclick = shoot;
  const takeFile = ({ files: [file] }) => file && take(file);
  $("file").onclick = ({ target }) => (target.value = ""); // or the same file would be no change
  $("file").onchange = ({ target }) => takeFile(target);
  document.onpaste = ({ clipboardData }) => takeFile(clipboardData);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    takeFile(event.dataTransfer);
  };

  $("sliders").oninput = update;
  $("sliders").onreset = () => setTimeout(update); // when the sliders are back
  move($("seen"), square, (event) => event.buttons, () => {
    if ($("cover").value === "0") $("cover").value = 8;
    update();
  });
  for (const id of ["under", "map"]) move($(id), place, () => true, showProduct);
  $("kernel").oninput = showProduct;
  all("#blocks canvas")[0].onclick = ({ target, offsetX, offsetY }) => {
    const [column, row] = [offsetX, offsetY].map((at) => Math.floor((16 * at) / target.clientWidth));
    $("kernel").value = 16 * row + column;
    showProduct();
  };

  first = await ask(NETWORK.layers);
  if (latest) return; // a reader was faster
  all("#pictures input")[0].checked = true;
  choose(0);
}

all(".languages button").forEach((button) => (button.onclick = () => {
  language = button.value;
  write();
}));
begin();
write();
