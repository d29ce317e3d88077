// An image's readings, as /v1/images/{id}/lens gives them: a safetensors file (service/lens.py says what is in it).

const KINDS = { U16: Uint16Array, U32: Uint32Array, F16: Uint16Array };

// Halves as browsers without Float16Array read them.
const halves = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  halves[bits] =
    exponent === 0 ? sign * fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : sign * Infinity) : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

export class Lens {
  constructor(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    const array = (name) => {
      const { dtype, data_offsets: [start, end] } = header[name], Kind = KINDS[dtype];
      const from = 8 + length + start, isAligned = from % Kind.BYTES_PER_ELEMENT === 0;
      return isAligned ? new Kind(buffer, from, (end - start) / Kind.BYTES_PER_ELEMENT) : new Kind(buffer.slice(from, 8 + length + end));
    };
    const texts = JSON.parse(header.__metadata__.texts);
    Object.assign(this, JSON.parse(header.__metadata__.about));
    [this.k, this.layers, this.positions] = header.token.shape;
    this.plane = this.layers * this.positions;
    this.token = array("token"); // (k, layer, position): numbers of `tokens`
    this.prob = array("prob"); // the same: bits of halves
    this.entropies = array("entropy"); // (layer, position): bits of halves, nats
    const ids = array("ids");
    this.tokens = texts.map((said, i) => {
      const [shown, piece] = Array.isArray(said) ? said : [said, said];
      return { id: ids[i], shown, piece: said === String(ids[i]) ? null : piece };
    });
    this.isRead = new Set(this.read);
  }

  // The token at a rank from 0; undefined at layers and positions that were not read.
  at(layer, position, rank = 0) {
    return this.tokens[this.token[rank * this.plane + layer * this.positions + position]];
  }

  probability(layer, position, rank = 0) {
    return halves[this.prob[rank * this.plane + layer * this.positions + position]];
  }

  entropy(layer, position) {
    return halves[this.entropies[layer * this.positions + position]];
  }

  // What a set of token numbers has at a place: its best rank from 1, 0 if none is stored, and its probabilities' sum.
  of(numbers, layer, position) {
    let best = 0, sum = 0;
    for (let rank = 0; rank < this.k; rank++) {
      const i = rank * this.plane + layer * this.positions + position;
      if (numbers.has(this.token[i])) {
        best ||= rank + 1;
        sum += halves[this.prob[i]];
      }
    }
    return { rank: best, probability: sum };
  }
}
