// The peer: bulk orders with Express 5, written the way a careful Node team would write it. Each order is enriched by
// two services called side by side, with one retry; successes stream out at once, failures are collected in memory.

import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import express from 'express'
import { Pool } from 'undici'

const SCALE = Number(process.env.LATENCY_SCALE ?? 1)
const WINDOW = Number(process.env.WINDOW ?? 256) // orders in flight in one request
const ATTEMPTS = 2
const BATCH = 50 // orders in one request to the batch endpoint
const BATCHED = process.env.WRITES === 'batched' // else each result is written by itself, as the replaced service does
const WRITE = 64 * 1024 // characters of lines that are worth a write of their own

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// Services over HTTP, if their URLs are given: a pool of connections each, and a request for each order.
function remote(url) {
  if (url === undefined) return null
  const { origin, pathname } = new URL(url)
  const ca = process.env.SERVICES_CA === undefined ? undefined : readFileSync(process.env.SERVICES_CA)
  const pool = new Pool(origin, { connections: WINDOW, pipelining: 1, connect: { ca } })
  return async (order) => {
    const { statusCode, body } = await pool.request({ path: `${pathname}/${order.orderId}`, method: 'GET' })
    if (statusCode !== 200) throw new Error(`responded ${statusCode}`)
    return body.json()
  }
}

// A service that answers for many orders in one request, if its URL is given. Each order waits for the others of its batch.
function remoteBatch(url) {
  if (url === undefined) return null
  const { origin, pathname } = new URL(url)
  const pool = new Pool(origin, { connections: WINDOW, pipelining: 1 })
  const headers = { 'content-type': 'application/json' }
  let waiting = []
  let timer = null

  async function send() {
    clearTimeout(timer)
    const batch = waiting
    waiting = []
    timer = null
    try {
      const body = JSON.stringify(batch.map(({ order }) => order.orderId))
      const response = await pool.request({ path: pathname, method: 'POST', headers, body })
      if (response.statusCode !== 200) throw new Error(`responded ${response.statusCode}`)
      const results = await response.body.json()
      if (results.length !== batch.length) throw new Error(`responded with ${results.length} of ${batch.length}`)
      for (let at = 0; at < batch.length; at++) batch[at].resolve(results[at])
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }

  return (order) => new Promise((resolve, reject) => {
    waiting.push({ order, resolve, reject })
    if (waiting.length === BATCH) send()
    else timer ??= setTimeout(send, 10_000)
  })
}

const remoteMany = remoteBatch(process.env.BATCH_URL)
const remotePricing = remote(process.env.PRICING_URL)
const remoteInventory = remote(process.env.INVENTORY_URL)

async function pricing(order) {
  if (remotePricing !== null) return remotePricing(order)
  if (SCALE > 0) await wait(100 * SCALE)
  return { price: 1000 + order.orderId }
}

// What a service answers is no bug: nobody reads its stack trace, and capturing one made failing orders slower.
class Unavailable extends Error {
  constructor(message) {
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 0
    super(message)
    Error.stackTraceLimit = limit
  }
}

async function inventory(order) {
  if (remoteInventory !== null) return remoteInventory(order)
  if (SCALE > 0) await wait(150 * SCALE)
  if (order.orderId % 3 === 0) throw new Unavailable('Inventory unavailable')
  return { inStock: true }
}

async function withRetry(service, order) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await service(order)
    } catch (error) {
      if (attempt === ATTEMPTS) throw error
    }
  }
}

const deadLetters = []

// Takes one order at a time into a response, never more than WINDOW at once, and writes many lines in one go.
class Results {
  received = 0
  ok = 0
  failed = 0
  #res
  #inFlight = 0
  #lines = ''
  #flushing = false
  #draining = false
  #wake = null
  #started = performance.now()

  constructor(res) {
    this.#res = res
    res.set('Content-Type', 'application/x-ndjson')
    res.on('drain', () => { this.#draining = false; this.#woken() })
    res.on('close', () => this.#woken())
  }

  get full() { return this.#inFlight >= WINDOW || this.#draining }

  get gone() { return this.#res.closed }

  // Something changed: an order left, the client read, or it went away. One loop waits, so one place is enough.
  change() { return new Promise((resolve) => { this.#wake = resolve }) }

  #woken() {
    const wake = this.#wake
    if (wake !== null) { this.#wake = null; wake() }
  }

  async take(order) {
    const seq = this.received++
    this.#inFlight++
    try {
      if (!Number.isSafeInteger(order?.orderId) || order.orderId < 1) throw new Error('orderId must be an integer of 1 or more')
      if (remoteMany !== null) {
        const value = await withRetry(remoteMany, order) // instead of the order, as Penstock's batch does
        this.ok++
        this.#write(`{"ok":true,"seq":${seq},"value":${JSON.stringify(value)}}\n`)
        return
      }
      const [price, stock] = await Promise.all([withRetry(pricing, order), withRetry(inventory, order)])
      order.pricing = price
      order.inventory = stock
      this.ok++
      this.#write(`{"ok":true,"seq":${seq},"value":${JSON.stringify(order)}}\n`)
    } catch (error) {
      this.#fail(seq, order, error)
    } finally {
      this.#inFlight--
      this.#woken()
    }
  }

  #fail(seq, order, error) {
    this.failed++
    deadLetters.push({ order, error: error.message, at: Date.now() })
    this.#write(`${JSON.stringify({ ok: false, seq, key: order?.orderId, error: { message: error.message } })}\n`)
  }

  #write(line) {
    if (!BATCHED) {
      if (!this.gone) this.#draining = !this.#res.write(line) || this.#draining
      return
    }
    this.#lines += line
    if (this.#lines.length >= WRITE) {
      this.#flush()
    } else if (!this.#flushing) {
      this.#flushing = true
      setImmediate(() => { this.#flushing = false; this.#flush() })
    }
  }

  #flush() {
    if (this.#lines === '' || this.gone) return
    this.#draining = !this.#res.write(this.#lines) || this.#draining
    this.#lines = ''
  }

  async end() {
    while (this.#inFlight > 0 && !this.gone) await this.change()
    this.#flush()
    const { received, ok, failed } = this
    const seconds = (performance.now() - this.#started) / 1000
    this.#res.end(`${JSON.stringify({ end: { reason: 'completed', received, ok, failed, seconds } })}\n`)
  }
}

function parsed(line) {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

const app = express()
app.disable('x-powered-by')

app.get('/orders/bulk', async (req, res) => {
  const results = new Results(res)
  const count = Math.min(Number(req.query.count ?? 10), 1_000_000)
  for (let orderId = 1; orderId <= count && !results.gone; orderId++) {
    while (results.full && !results.gone) await results.change()
    results.take({ orderId })
  }
  await results.end()
})

app.post('/orders/bulk', async (req, res) => {
  const results = new Results(res)
  let rest = ''
  for await (const chunk of req.setEncoding('utf8')) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    for (const line of lines) {
      while (results.full && !results.gone) await results.change()
      if (line !== '' && line !== '\r') results.take(parsed(line))
    }
    if (results.gone) return
  }
  if (rest.trim() !== '') results.take(parsed(rest))
  await results.end()
})

app.delete('/dead-letters', (req, res) => { deadLetters.length = 0; res.status(204).end() })

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
    console.log(JSON.stringify({ event: 'http.listening', url: `http://127.0.0.1:${server.address().port}` }))
  })
}
