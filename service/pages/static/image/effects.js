// What studies measured in this image: the patches that were taken are outlined for whoever points at them.

export class Effects {
  constructor(page) {
    for (const button of document.querySelectorAll("#effects button")) {
      const patches = button.dataset.patches.split(" ").map(Number);
      button.onpointerenter = button.onfocus = () => page.spotlight(patches);
      button.onpointerleave = button.onblur = () => page.spotlight(null);
      button.onclick = () => page.choose(patches);
      button.disabled = false;
    }
  }
}
