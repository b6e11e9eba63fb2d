/* A worker: the program itself, in Python, with its catalog. It is told a command and answers what that prints. */
const root = new URL("../../python/", import.meta.url);
const tell = (stage) => self.postMessage({ stage });

const fetched = async (name) => {
  const response = await fetch(new URL(name, root));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
};

const start = async () => {
  tell("Fetching Python");
  const program = fetched("program.zip");
  const { loadPyodide } = await import(new URL("pyodide.mjs", root));
  const python = await loadPyodide({ indexURL: root.href });
  tell("Reading the catalog");
  python.unpackArchive(await program, "zip", { extractDir: "/program" });
  python.runPython(`
import sys
sys.path.insert(0, "/program")
from lvlm_atlas.cli.in_page import run
`);
  return { python, run: python.globals.get("run") };
};
const started = start();

self.onmessage = async ({ data: { number, line, columns, files } }) => {
  try {
    const { python, run } = await started;
    tell("Working");
    const given = python.toPy(files);
    const answer = run(line, columns, given);
    const [code, out, err] = answer.toJs();
    answer.destroy();
    given.destroy();
    self.postMessage({ number, code, out, err });
  } catch (error) {
    self.postMessage({ number, failure: error.message.trim().split("\n").at(-1) });
  }
};
