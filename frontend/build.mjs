// Builds the one bundle (script and style) that the report and the dashboard use. Same input, same bytes.
import { build } from "esbuild";

const out = process.env.LMTRACE_BUNDLE_OUT ?? "../src/lmtrace/show/static";
await build({
  entryPoints: { app: "src/main.ts", style: "src/style.css" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2022", "chrome110", "firefox115", "safari16.4"],
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
});
