/**
 * Drives one Chromium for the tests in Python: a JSON line {id, call, args} in, a JSON line {id, result} or {id, error} out. Every page has a
 * browser context of its own, so no cookie goes from one test to another. `seen` tells what a page asked for and complained of.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'

const PATIENCE_MS = 30_000
const PAUSE_MS = 20
const require = createRequire(new URL('../../frontend/package.json', import.meta.url))
const { chromium } = require('playwright-core')
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: [
    ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
    '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
})
let context, page, seen

const calls = {
  async open({ width, height, phone, theme, cookies }) {
    context = await browser.newContext({ viewport: { width, height }, isMobile: phone, hasTouch: phone, reducedMotion: 'reduce' })
    context.setDefaultTimeout(PATIENCE_MS)
    await context.addCookies(cookies)
    await context.addInitScript((name) => localStorage.setItem('webmacs.theme', name), theme)
    page = await context.newPage()
    seen = { requests: [], problems: [] }
    const mine = seen
    page.on('request', (request) => mine.requests.push(request.url()))
    page.on('websocket', (socket) => mine.requests.push(socket.url()))
    page.on('pageerror', (error) => mine.problems.push(`exception: ${error.message}`))
    page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') mine.problems.push(`${message.text()} (${message.location().url})`)
    })
    await page.exposeFunction('tellViolation', (text) => void mine.problems.push(text))
    await page.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) => window.tellViolation(`CSP: ${event.violatedDirective} ${event.blockedURI}`))
    })
  },
  close: () => context.close(),
  goto: async (url) => void (await page.goto(url)),
  reload: async () => void (await page.reload()),
  url: () => page.url(),
  fill: (selector, text) => page.fill(selector, text),
  click: (selector) => page.click(selector),
  press: (key) => page.keyboard.press(key),
  text: (selector) => page.innerText(selector),
  count: (selector) => page.locator(selector).count(),
  wait_for: async (selector) => void (await page.waitForSelector(selector)),
  wait_for_url: (pattern) => page.waitForURL(pattern),
  /** Asks again and again until the expression is true in the page (waitForFunction would need eval, which our policy forbids). */
  async until(expression) {
    for (const deadline = Date.now() + PATIENCE_MS; ; await setTimeout(PAUSE_MS)) {
      const result = await page.evaluate(expression)
      if (result) return result
      if (Date.now() > deadline) throw new Error(`waited in vain; it is ${JSON.stringify(result)}`)
    }
  },
  evaluate: (expression) => page.evaluate(expression),
  resize: (width, height) => page.setViewportSize({ width, height }),
  cookies: () => context.cookies(),
  async screenshot(path) {
    await page.screenshot({ path })
  },
  async axe() {
    await page.evaluate(axe)
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }))
    return violations.flatMap(({ id, impact, nodes }) => nodes.map((node) => ({ id, impact, where: node.target.join(' '), why: node.failureSummary })))
  },
  seen: () => seen,
}

console.log(JSON.stringify({ id: 0, result: browser.version() }))
for await (const line of createInterface({ input: process.stdin })) {
  const { id, call, args } = JSON.parse(line)
  try {
    console.log(JSON.stringify({ id, result: (await calls[call](...args)) ?? null }))
  } catch (error) {
    console.log(JSON.stringify({ id, error: `${call}(${JSON.stringify(args)}): ${error.message}` }))
  }
}
await browser.close()
