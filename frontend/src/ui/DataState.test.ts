import { mount } from '@vue/test-utils'
import PrimeVue from 'primevue/config'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { ApiProblem } from '@/api/problem'
import DataState from './DataState.vue'

beforeEach(() => vi.useFakeTimers())
afterEach(() => vi.useRealTimers())

function show(props: Partial<InstanceType<typeof DataState>['$props']>) {
  return mount(DataState, {
    props: { state: 'ready', problem: null, filled: false, ...props },
    slots: { default: '<p>rows</p>', empty: '<p>No channels yet.</p>' },
    global: { plugins: [PrimeVue] },
  })
}

describe('the state of data', () => {
  it('shows nothing for a short wait and a skeleton for a longer one', async () => {
    const view = show({ state: 'loading' })
    expect(view.findAll('.p-skeleton')).toHaveLength(0)
    await vi.advanceTimersByTimeAsync(160)
    expect(view.findAll('.p-skeleton').length).toBeGreaterThan(0)
    expect(view.text()).not.toContain('No channels yet')
  })

  it('says what to do when there is nothing', () => {
    expect(show({}).text()).toBe('No channels yet.')
  })

  it('shows the sentence, the request and a retry when it failed', async () => {
    const view = show({ state: 'failed', problem: new ApiProblem(503, 'Busy', 'The database does not answer.', 'r-42') })
    expect(view.get('[role=alert]').text()).toContain('The database does not answer.')
    expect(view.text()).toContain('r-42')
    await view.get('button').trigger('click')
    expect(view.emitted('retry')).toHaveLength(1)
  })

  it('keeps old data when a reload failed, and says of when it is', () => {
    const view = show({ state: 'failed', filled: true, asOf: new Date(2026, 10, 23, 14, 31, 40).getTime(), problem: new ApiProblem(500, 'x', 'Broken.') })
    expect(view.text()).toContain('rows')
    expect(view.text()).toContain('14:31:40')
  })

  it('dims old data while it is read again', async () => {
    const view = show({ state: 'loading', filled: true })
    await vi.advanceTimersByTimeAsync(160)
    expect(view.get('.data--old').text()).toBe('rows')
  })
})
