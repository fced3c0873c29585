// Shows a sequence of STL surfaces. Built into ../static/viewer.js together with the parts of three.js it uses.
import {
  AmbientLight, BufferGeometry, Color, DirectionalLight, Float32BufferAttribute, HemisphereLight, Mesh,
  MeshPhysicalMaterial, PerspectiveCamera, Scene, Sphere, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import { mergeVertices } from "three/examples/jsm/utils/BufferGeometryUtils.js";

const HEADER = 84; // bytes before the first triangle of a binary STL
const RECORD = 50; // bytes a triangle: normal, three corners, attributes
const FRAME_MS = 110;

export function parseStl(buffer) {
  const view = new DataView(buffer);
  const count = view.getUint32(80, true);
  if (buffer.byteLength < HEADER + count * RECORD) throw new Error("the file is shorter than it says");
  const corners = new Float32Array(count * 9);
  for (let k = 0; k < count; k++) {
    const start = HEADER + k * RECORD + 12; // the normals are made anew, smooth
    for (let i = 0; i < 9; i++) corners[9 * k + i] = view.getFloat32(start + 4 * i, true);
  }
  return corners;
}

export class CellViewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(35, 4 / 3, 0.1, 1000);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = true;
    const sun = new DirectionalLight(0xffffff, 2.2);
    sun.position.set(1, 2, 3);
    this.camera.add(sun); // light comes from the viewer's side however the cell is turned
    this.scene.add(this.camera, new AmbientLight(0xffffff, 0.35), new HemisphereLight(0xd8fff8, 0x1a3a44, 1.1));
    const material = new MeshPhysicalMaterial({ color: new Color(0x2fb5a3), roughness: 0.42, clearcoat: 0.35, clearcoatRoughness: 0.4 });
    this.mesh = new Mesh(new BufferGeometry(), material);
    this.scene.add(this.mesh);
    this.frames = [];
    this.index = 0;
    this.playing = false;
    this.onframe = this.onplay = () => {};
    this.turned = 0;
    this.renderer.setAnimationLoop((now) => this.draw(now));
  }

  async load(addresses, onprogress = () => {}) {
    this.clear();
    const turn = ++this.turned; // a later load wins
    const frames = [];
    for (const address of addresses) {
      const answer = await fetch(address);
      if (!answer.ok) throw new Error(`the file cannot be read: ${answer.status}`);
      const geometry = new BufferGeometry();
      geometry.setAttribute("position", new Float32BufferAttribute(parseStl(await answer.arrayBuffer()), 3));
      const merged = mergeVertices(geometry, 1e-4);
      merged.computeVertexNormals();
      frames.push(merged);
      onprogress(frames.length);
      if (turn !== this.turned) return;
    }
    this.frames = frames;
    this.look();
  }

  clear() {
    this.play(false);
    this.turned++;
    this.mesh.geometry = new BufferGeometry();
    for (const frame of this.frames) frame.dispose();
    this.frames = [];
  }

  look() {
    // One view for all frames, so that growth and motion are seen as such.
    const all = new Sphere(new Vector3(), -1);
    for (const frame of this.frames) {
      frame.computeBoundingSphere();
      all.union(frame.boundingSphere);
    }
    const distance = (1.15 * all.radius) / Math.sin((this.camera.fov * Math.PI) / 360);
    this.controls.target.copy(all.center);
    this.camera.position.copy(all.center).add(new Vector3(0.5, 0.45, 0.9).normalize().multiplyScalar(distance));
    this.camera.near = distance / 100;
    this.camera.far = distance * 10;
    this.camera.updateProjectionMatrix();
  }

  show(index) {
    if (this.frames.length === 0) return;
    this.index = index % this.frames.length;
    this.mesh.geometry = this.frames[this.index];
    this.onframe(this.index);
  }

  play(on) {
    this.playing = on && this.frames.length > 1;
    this.due = 0;
    this.onplay?.(this.playing);
  }

  draw(now) {
    if (this.canvas.hidden) return;
    if (this.playing && now >= this.due) {
      if (this.due) this.show(this.index + 1);
      // A pause on the last frame, so that the eye sees where the film ends.
      this.due = now + FRAME_MS * (this.index === this.frames.length - 1 ? 6 : 1);
    }
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = Math.min(2, devicePixelRatio);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.renderer.setPixelRatio(ratio);
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / Math.max(1, height);
      this.camera.updateProjectionMatrix();
    }
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }
}
