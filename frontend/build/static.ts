/** Build steps behind Vite: the offline viewer of the API document, and compressed copies beside every text file. */
import { cpSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'
import type { Plugin } from 'vite'

const TEXT = /\.(?:html|js|css|svg|json|txt|webmanifest)$/
/** Below this a compressed copy saves less than its own headers. */
const SMALLEST_BYTES = 1024

/** Places Swagger UI's two files and the page that starts it, frontend/docs, under docs/. Its scripts are files: the policy forbids inline ones. */
export function apiDocs(): Plugin {
  let page = ''
  let out = ''
  return {
    name: 'webmacs-api-docs',
    apply: 'build',
    configResolved: (config) => {
      page = join(config.root, 'docs')
      out = join(config.root, config.build.outDir, 'docs')
    },
    closeBundle: () => {
      const from = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
      cpSync(page, out, { recursive: true })
      for (const file of ['swagger-ui.css', 'swagger-ui-bundle.js', 'LICENSE', 'NOTICE']) cpSync(join(from, file), join(out, file))
    },
  }
}

/** Writes name.gz and name.br beside each text file, so that serving costs no compression on small hardware. */
export function compressed(): Plugin {
  let out = ''
  return {
    name: 'webmacs-compressed',
    apply: 'build',
    enforce: 'post',
    configResolved: (config) => {
      out = join(config.root, config.build.outDir)
    },
    closeBundle: {
      sequential: true,
      order: 'post',
      handler: () => {
        for (const name of readdirSync(out, { recursive: true, encoding: 'utf8' })) {
          if (!TEXT.test(name)) continue
          const bytes = readFileSync(join(out, name))
          if (bytes.length < SMALLEST_BYTES) continue
          writeFileSync(join(out, `${name}.gz`), gzipSync(bytes, { level: 9 }))
          writeFileSync(join(out, `${name}.br`), brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }))
        }
      },
    },
  }
}
