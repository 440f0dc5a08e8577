// A server of Node's own http module, for the HTTP client.
import http from 'node:http'

const server = http.createServer(async (request, response) => {
  let size = 0
  for await (const chunk of request) size += chunk.length
  response.setHeader('Content-Type', 'application/json')
  const port = String(request.socket.remotePort)
  if (request.url === '/empty') return response.writeHead(204).end()
  if (request.url === '/chunks') {
    response.write('"')
    for (let number = 0; number < 100; number++) response.write('0123456789')
    return response.end('"')
  }
  if (request.url === '/large') return response.end(JSON.stringify('x'.repeat(2_000_000)))
  if (request.url === '/error') return response.writeHead(503).end('{"error": {"type": "Busy", "message": "later"}}')
  response.end(JSON.stringify({ method: request.method, size, port }))
})
server.keepAliveTimeout = Number(process.argv[2] ?? 5000)
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
