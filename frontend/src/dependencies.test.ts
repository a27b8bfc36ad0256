import { readdirSync, readFileSync } from 'node:fs'
import { expect, it } from 'vitest'

const lock = readFileSync('package-lock.json', 'utf8')
const packages = (JSON.parse(lock) as { packages: Record<string, { version?: string }> }).packages
const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Record<'dependencies' | 'devDependencies', Record<string, string>>

it('the lock file names no host that packages come from', () => {
  expect(lock).not.toContain('"resolved"')
})

it('PrimeVue and its parts stay on their last free line', () => {
  const major = (name: string): number => Number(packages[`node_modules/${name}`]!.version!.split('.')[0])
  expect(major('primevue')).toBeLessThan(5)
  expect(major('primeicons')).toBeLessThan(8)
  expect(major('@primeuix/themes')).toBeLessThan(3)
})

it('every dependency is pinned to one version', () => {
  for (const version of Object.values({ ...manifest.dependencies, ...manifest.devDependencies })) expect(version).toMatch(/^\d+\.\d+\.\d+$/)
})

it('no source file names a colour or another host', () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) => /\.(vue|ts|css)$/.test(file) && !/test\.ts$|tokens\.css$|schema\.d\.ts$/.test(file))
  for (const file of files) {
    const text = readFileSync(`src/${file}`, 'utf8')
    expect(text.match(/#[0-9a-f]{6}\b|rgba?\(/gi), file).toBeNull()
    expect(text.match(/https?:\/\/(?!www\.w3\.org)/g), file).toBeNull()
  }
})
