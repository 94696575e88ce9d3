#!/usr/bin/python3
"""A small web application on PostgreSQL and redis.

    GET  /        how often this page was seen (redis), by which instance
    GET  /health  200 when PostgreSQL and redis answer, else 503
    GET  /rows    all rows as a JSON list (PostgreSQL)
    POST /rows    adds the body as a row, answers it with its number

`app.py health` asks a running instance and exits with 0 or 1.
DATABASE_URL, REDIS_HOST, PORT and GREETING come from the environment.
"""
import http.server
import json
import os
import signal
import socket
import sys
import threading
import urllib.request

PORT = int(os.environ.get("PORT", "8000"))
if sys.argv[1:] == ["health"]:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=4)
    except OSError as error:
        sys.exit(f"not healthy: {error}")
    sys.exit(0)

import psycopg2
import redis

DATABASE = os.environ.get("DATABASE_URL", "postgresql://postgres:postgres@db:5432/postgres")
CACHE = redis.Redis(host=os.environ.get("REDIS_HOST", "redis"), socket_timeout=3, socket_connect_timeout=3)


def query(text, values=()):
    connection = psycopg2.connect(DATABASE, connect_timeout=3)
    try:
        with connection, connection.cursor() as cursor:
            # One after the other: two first requests at once would both make the table.
            cursor.execute("SELECT pg_advisory_xact_lock(1)")
            cursor.execute("CREATE TABLE IF NOT EXISTS rows (id serial PRIMARY KEY, value text NOT NULL)")
            cursor.execute(text, values)
            return cursor.fetchall()
    finally:
        connection.close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = (value if isinstance(value, str) else json.dumps(value)).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def guarded(self, respond):
        try:
            respond()
        except (psycopg2.Error, redis.RedisError) as error:
            self.answer(503, {"error": str(error).strip()})

    def do_GET(self):
        if self.path == "/":
            greeting = os.environ.get("GREETING", "Hello")
            self.guarded(lambda: self.answer(
                200, f"{greeting} from {socket.gethostname()}, seen {CACHE.incr('seen')} times"))
        elif self.path == "/health":
            self.guarded(lambda: (CACHE.ping(), query("SELECT 1"), self.answer(200, "ok")))
        elif self.path == "/rows":
            self.guarded(lambda: self.answer(
                200, [{"id": id, "value": value} for id, value in query("SELECT id, value FROM rows ORDER BY id")]))
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        if self.path == "/rows":
            self.guarded(lambda: self.answer(
                201, {"id": query("INSERT INTO rows (value) VALUES (%s) RETURNING id", (body,))[0][0], "value": body}))
        else:
            self.answer(404, {"error": "not found"})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("", PORT), Handler)
# Process 1 has no default signal actions: without this a stop would take the whole grace period.
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"listening on port {PORT}", flush=True)
server.serve_forever()
print("stopped", flush=True)
