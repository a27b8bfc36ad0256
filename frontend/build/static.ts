/** Build steps behind Vite: the offline viewer of the API document, and compressed copies beside every text file. */
import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { brotliCompressSync, constants, gzipSync } from 'node:zlib'
import type { Plugin } from 'vite'

const TEXT = /\.(?:html|js|css|svg|json|txt|webmanifest)$/
/** Below this a compressed copy saves less than its own headers. */
const SMALLEST_BYTES = 1024

const DOCS_PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="/docs/swagger-ui.css" />
    <title>WebMACS API</title>
  </head>
  <body>
    <div id="api"></div>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
`

/** validatorUrl null: otherwise the viewer would send the document's address to a host outside. */
const DOCS_SCRIPT = `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#api',
  deepLinking: true,
  validatorUrl: null,
  persistAuthorization: false,
  requestInterceptor: (request) => {
    request.headers['X-WebMACS'] = '1'
    return request
  },
})
`

/** Places Swagger UI's two files, a page and its script under docs/. The script is a file of its own: the policy forbids inline ones. */
export function apiDocs(): Plugin {
  let out = ''
  return {
    name: 'webmacs-api-docs',
    apply: 'build',
    configResolved: (config) => {
      out = join(config.root, config.build.outDir, 'docs')
    },
    closeBundle: () => {
      const from = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
      mkdirSync(out, { recursive: true })
      for (const file of ['swagger-ui.css', 'swagger-ui-bundle.js', 'LICENSE', 'NOTICE']) cpSync(join(from, file), join(out, file))
      writeFileSync(join(out, 'index.html'), DOCS_PAGE)
      writeFileSync(join(out, 'start.js'), DOCS_SCRIPT)
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
