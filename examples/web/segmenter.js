// Runs a model that `hf-refseg export` wrote, as `hf_refseg.onnx.OnnxSegmenter` does, in a browser.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web";

const SCHEMA_VERSION = 1;
// Pillow's numbers of its filters: how far each reaches, in pixels of the smaller of both sizes, and its weights.
const FILTERS = {
  2: { reach: 1, weigh: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: { reach: 2, weigh: cubic },
};

export class WebSegmenter {
  /** The export in the folder at a URL. Throws an Error that says what is missing or not supported. */
  static async load(folder) {
    const settings = await fetchJson(`${folder}/export.json`);
    if (settings.schema_version !== SCHEMA_VERSION) {
      throw new Error(`export.json has schema_version ${settings.schema_version}, this page reads ${SCHEMA_VERSION}.`);
    }
    if (settings.format !== "onnx" || settings.num_frames !== null) {
      throw new Error("This page runs graphs of images: export the model with --format onnx, and --per-frame.");
    }
    if (!(settings.resample in FILTERS)) {
      throw new Error(`The model's pictures are resized by Pillow's filter ${settings.resample}; this page has 2 and 3.`);
    }
    const tokenizer = new Tokenizer(await fetchJson(`${folder}/tokenizer.json`), {});
    const sessions = [];
    for (const file of Object.values(settings.graphs)) {
      sessions.push(await ort.InferenceSession.create(`${folder}/${file}`, { executionProviders: ["wasm"] }));
    }
    return new WebSegmenter(settings, tokenizer, sessions);
  }

  constructor(settings, tokenizer, sessions) {
    this.settings = settings;
    this.tokenizer = tokenizer;
    this.sessions = sessions;
  }

  /**
   * What a text means in an ImageData.
   *
   * Returns { probabilities: Float32Array of width * height, row by row, isFound: whether the model says that there is
   * a target, or null where it says nothing of that }.
   */
  async segment(image, text) {
    if (!text.trim()) {
      throw new Error("Type what to segment.");
    }
    const [height, width] = this.settings.image_size;
    let known = { pixel_values: this.prepare(image), ...this.tokenize(text) };
    let answers = {};
    for (const session of this.sessions) {
      const inputs = Object.fromEntries(session.inputNames.map((name) => [name, known[name]]));
      answers = await session.run(inputs);
      known = { ...known, ...answers };
    }
    const inside = this.innerSize(image);
    const map = { values: cut(answers.logits.data, width, inside), ...inside };
    const logits = enlarge(map, image.width, image.height);
    const presence = answers.presence_logits;
    return {
      probabilities: logits.map((logit) => 1 / (1 + Math.exp(-logit))),
      isFound: presence === undefined ? null : presence.data[0] > 0,
    };
  }

  /** Width and height at which the model sees an image, padding left out. */
  innerSize(image) {
    const [height, width] = this.settings.image_size;
    if (!this.settings.keeps_aspect_ratio) {
      return { width, height };
    }
    const scale = Math.max(height, width) / Math.max(image.width, image.height);
    const fit = (side) => Math.max(1, Math.floor(side * scale + 0.5));
    return { width: fit(image.width), height: fit(image.height) };
  }

  /** The image as the graph takes it: resized, normalized, color by color, zeros at the right and the bottom. */
  prepare(image) {
    const [height, width] = this.settings.image_size;
    const { mean, std, rescale_factor: scale } = this.settings;
    const inside = this.innerSize(image);
    const resized = resize(image, inside.width, inside.height, FILTERS[this.settings.resample]);
    const pixels = new Float32Array(3 * height * width);
    for (let color = 0; color < 3; color++) {
      for (let y = 0; y < inside.height; y++) {
        for (let x = 0; x < inside.width; x++) {
          const level = resized[3 * (y * inside.width + x) + color];
          pixels[(color * height + y) * width + x] = (level * scale - mean[color]) / std[color];
        }
      }
    }
    return new ort.Tensor("float32", pixels, [1, 3, height, width]);
  }

  /** The tokens of one text, cut where the processor cuts them. */
  tokenize(text) {
    const { max_text_length: limit, text_truncation: truncation } = this.settings;
    let ids = this.tokenizer.encode(text).ids;
    if (ids.length > limit) {
      // The last token is the end token.
      ids = truncation === "released" ? ids.slice(0, limit) : [...ids.slice(0, limit - 1), ids.at(-1)];
    }
    const tensor = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
    return { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
  }
}

async function fetchJson(url) {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url} cannot be read (${response.status}): put there the folder that hf-refseg export wrote.`);
  }
  return response.json();
}

function cubic(x) {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) {
    return ((a + 2) * d - (a + 3)) * d * d + 1;
  }
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/** For each of `wanted` pixels the first of the `given` ones that it is made of, and their weights. */
function weights(given, wanted, filter) {
  const scale = given / wanted;
  // Where pictures shrink, the filter grows: every pixel counts.
  const stretch = Math.max(scale, 1);
  return Array.from({ length: wanted }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - filter.reach * stretch + 0.5));
    const end = Math.min(given, Math.trunc(center + filter.reach * stretch + 0.5));
    const plain = Array.from({ length: end - first }, (_, at) => filter.weigh((first + at + 0.5 - center) / stretch));
    const sum = plain.reduce((total, weight) => total + weight, 0);
    return { first, weights: plain.map((weight) => weight / sum) };
  });
}

/** An ImageData at another size, as Pillow resizes RGB: first along rows, then along columns, rounded in between. */
function resize(image, width, height, filter) {
  const round = (value) => Math.min(255, Math.max(0, Math.floor(value + 0.5)));
  const rows = new Uint8Array(3 * width * image.height);
  const resizesRows = width !== image.width;
  const along = weights(image.width, width, filter);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) {
      for (let color = 0; color < 3; color++) {
        const level = (at) => image.data[4 * (y * image.width + at) + color];
        const { first, weights: parts } = along[x];
        rows[3 * (y * width + x) + color] = resizesRows
          ? round(parts.reduce((sum, weight, at) => sum + weight * level(first + at), 0))
          : level(x);
      }
    }
  }
  if (height === image.height) {
    return rows;
  }
  const result = new Uint8Array(3 * width * height);
  weights(image.height, height, filter).forEach(({ first, weights: parts }, y) => {
    for (let at = 0; at < 3 * width; at++) {
      result[3 * width * y + at] = round(
        parts.reduce((sum, weight, row) => sum + weight * rows[3 * width * (first + row) + at], 0),
      );
    }
  });
  return result;
}

/** The part of a map `stride` wide that is no padding. */
function cut(values, stride, { width, height }) {
  const inside = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    inside.set(values.subarray(y * stride, y * stride + width), y * width);
  }
  return inside;
}

/** A map at the size of the image, bilinear, corners not aligned. */
function enlarge(map, width, height) {
  const places = (given, wanted) =>
    Array.from({ length: wanted }, (_, index) => {
      const place = Math.max(0, ((index + 0.5) * given) / wanted - 0.5);
      const first = Math.min(Math.floor(place), given - 1);
      return { first, second: Math.min(first + 1, given - 1), share: place - first };
    });
  const columns = places(map.width, width);
  const result = new Float32Array(width * height);
  places(map.height, height).forEach((row, y) => {
    columns.forEach((column, x) => {
      const at = (line) => {
        const start = line * map.width;
        return (
          map.values[start + column.first] * (1 - column.share) + map.values[start + column.second] * column.share
        );
      };
      result[y * width + x] = at(row.first) * (1 - row.share) + at(row.second) * row.share;
    });
  });
  return result;
}
