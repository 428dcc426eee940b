"""The manual pages of `mmsr-bench`: what a scenario does, examples, exit codes.

In the form that typer's help prints as it stands: a line break within a paragraph stays.
"""

# One paragraph a line: the terminal breaks it.
MAIN = """Measure a running mmsr-serve, or what computes without it.

Every scenario prints tables; --json writes all of it (command, commit, versions, machine, bundle, \
seeds, a histogram of every second), --html a page for a browser. Latency counts from the time at \
which a request was meant to be sent; the generators' own lag is printed and voids a run that it \
spoils; a percentile that has too few samples is a dash.

Exit codes: 0 measured; 1 not possible as asked (one line says why); 2 wrong usage; 3 a run is VOID: \
measured and shown, but it does not count; 4 worse than the limit that was set; 130 interrupted: \
what was measured so far is shown and written.
"""

SERVER = """Measure latency and throughput of a running server.

Sends the bundle's own histories. A closed loop (--concurrency) finds the throughput and hides \
waiting: while the server stalls, nobody asks. An open loop (--rate, --ramp, --step) sends at its \
times whatever the server does, so that a stall is felt by everyone who would have come meanwhile. \
Failed requests are counted by status, refusals apart, and as slower than every answer.

Examples:
  mmsr-bench server 127.0.0.1:50051 --repository REPO --concurrency 1,16,64
  mmsr-bench server 127.0.0.1:50051 --repository REPO --rate 200,500 --slo-ms 20 --html r.html
  mmsr-bench server 127.0.0.1:50051 --repository REPO --step 100,800,100 --choice zipf

Exit code 3: a run is VOID, since the generator itself was late or the answers were not the model's.
"""

ENGINE = """Measure the runner alone, without a server: milliseconds a batch.

This is the ceiling of a server on this machine: no socket, no queue, full batches. Every combination \
of --label, --items, --length, --k and --batch is measured.

Examples:
  mmsr-bench engine --repository REPO --batch 1,8,64
  mmsr-bench engine --repository REPO --label fp32 --label int8 --batch 1,32
  mmsr-bench engine --repository REPO --items 10000,100000,1000000 --length 10,50
"""
