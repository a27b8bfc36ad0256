/** A WebSocket whose other end is the test. */
export class FakeSocket {
  static opened: FakeSocket[] = []
  onopen: (() => void) | null = null
  onmessage: ((event: { data: string }) => void) | null = null
  onclose: ((event: { code: number }) => void) | null = null
  onerror: (() => void) | null = null
  sent: string[] = []
  closed = false

  constructor(readonly address: string | URL = '') {
    FakeSocket.opened.push(this)
  }

  send(text: string): void {
    this.sent.push(text)
  }

  close(): void {
    this.closed = true
  }

  /** The backend accepts, greets and begins to stream. */
  greet(serverTime = new Date().toISOString()): void {
    this.onopen?.()
    this.say({ type: 'connected', server_time: serverTime, plant: 'Plant' })
    this.say({ type: 'snapshot', datapoints: [] })
  }

  say(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) })
  }

  break(code = 1006): void {
    this.onclose?.({ code })
  }
}
