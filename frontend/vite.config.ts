import { fileURLToPath, URL } from 'node:url'
import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vitest/config'
import { apiDocs, compressed } from './build/static.ts'

const backend = 'http://127.0.0.1:8000'

export default defineConfig({
  plugins: [vue(), apiDocs(), compressed()],
  resolve: { alias: { '@': fileURLToPath(new URL('./src', import.meta.url)) } },
  build: { outDir: '../webmacs/static', emptyOutDir: true, target: 'es2022', reportCompressedSize: true },
  server: {
    proxy: {
      '/api': backend,
      '/health': backend,
      '/openapi.json': backend,
      '/ws': { target: backend, ws: true },
    },
  },
  test: { environment: 'happy-dom', include: ['src/**/*.test.ts'], css: false },
})
