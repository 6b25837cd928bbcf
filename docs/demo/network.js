// The network in plain JavaScript: what PyTorch does in notebook 3, number by number. It needs no library.
// Maps of size x size numbers lie in one long array: map after map, and each map row after row.

/** 3x3 convolution with padding 1: lay each kernel on every place, multiply, add up. */
function convolve(maps, size, { weight, bias }) {
  const outputs = bias.length, inputs = weight.length / outputs / 9;
  const padded = pad(maps, size), row = size + 2;
  const result = new Float32Array(outputs * size * size);
  for (let o = 0; o < outputs; o++) {
    result.fill(bias[o], o * size * size, (o + 1) * size * size);
    for (let i = 0; i < inputs; i++) {
      const [a, b, c, d, e, f, g, h, k] = weight.subarray(9 * (o * inputs + i));
      for (let y = 0, to = o * size * size; y < size; y++)
        for (let x = 0, p = (i * row + y) * row; x < size; x++, p++, to++) {
          const q = p + row, r = q + row; // where the three rows of the window begin
          result[to] += a * padded[p] + b * padded[p + 1] + c * padded[p + 2]
            + d * padded[q] + e * padded[q + 1] + f * padded[q + 2]
            + g * padded[r] + h * padded[r + 1] + k * padded[r + 2];
        }
    }
  }
  return result;
}

/** The same maps with a frame of zeros, one number wide. */
function pad(maps, size) {
  const row = size + 2, padded = new Float32Array((maps.length / size / size) * row * row);
  for (let from = 0, y = 0; from < maps.length; from += size, y++)
    padded.set(maps.subarray(from, from + size), (Math.floor(y / size) * row + (y % size) + 1) * row + 1);
  return padded;
}

/** Negative numbers become 0. */
function relu(values) {
  const result = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) result[i] = values[i] > 0 ? values[i] : 0;
  return result;
}

/** Max-pooling: the largest number of each window of 3x3. Windows lie 2 apart, so that they overlap. */
function maxPool(maps, size) {
  const half = Math.floor((size - 1) / 2), result = [];
  for (let map = 0; map < maps.length; map += size * size)
    for (let y = 0; y < half; y++)
      for (let x = 0; x < half; x++) {
        const p = map + 2 * y * size + 2 * x, q = p + size, r = q + size;
        result.push(Math.max(maps[p], maps[p + 1], maps[p + 2], maps[q], maps[q + 1], maps[q + 2],
          maps[r], maps[r + 1], maps[r + 2]));
      }
  return new Float32Array(result);
}

/** Linear layer: each output is the sum of all inputs, each times a weight of its own, plus a bias. */
function linear(values, { weight, bias }) {
  const result = bias.slice();
  for (let o = 0, w = 0; o < bias.length; o++)
    for (let i = 0; i < values.length; i++, w++) result[o] += values[i] * weight[w];
  return result;
}

/** Ten scores (logits) for a picture [3 x 32 x 32] in 0..1; what each block hands on, and the first convolution. */
function forward(layers, picture) {
  const blocks = [];
  let maps = picture, size = 32, first;
  for (const block of [1, 2, 3, 4, 5]) {
    maps = convolve(maps, size, layers[block - 1]); // BatchNorm is in its weights: see scripts/export_network.py
    first ??= maps;
    maps = relu(maps);
    if (block < 3 || block === 5) {
      maps = maxPool(maps, size);
      size = Math.floor((size - 1) / 2);
    }
    blocks.push({ maps, size });
  }
  return { logits: linear(relu(linear(maps, layers[5])), layers[6]), blocks, first };
}

/** Positive numbers that add up to 1. The largest is subtracted first, so that no exponential is infinite. */
function softmax(logits) {
  const powers = Array.from(logits, (logit) => Math.exp(logit - Math.max(...logits)));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((power) => power / sum);
}

/** Weights and biases from base64 text: whole numbers from -127 to 127, times one scale per output. */
function unpack({ numbers, scale, bias }) {
  const weight = new Float32Array(new Int8Array(bytes(numbers))), scales = new Float32Array(bytes(scale));
  for (let o = 0, w = 0; o < scales.length; o++)
    for (const end = w + weight.length / scales.length; w < end; w++) weight[w] *= scales[o];
  return { weight, bias: new Float32Array(bytes(bias)) };
}

function bytes(base64) {
  const text = atob(base64), result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result.buffer;
}
