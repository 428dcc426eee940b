"""The manual pages of `mmsr-bench`: what a scenario does, examples, exit codes.

In the form that typer's help prints as it stands: a line break within a paragraph stays.
"""

# One paragraph a line: the terminal breaks it.
MAIN = """Measure a running mmsr-serve, or what computes without it.

Every scenario prints tables; --json writes all of it (command, commit, versions, machine, \
bundle, seeds, a histogram of every second), --html a page for a browser. Latency counts from the \
time at which a request was meant to be sent; the generators' own lag is printed and voids a run \
that it spoils; a percentile that has too few samples is a dash.

Examples:
  mmsr-bench server TARGET --repository REPO --rate 200,500 --html r.html
  mmsr-bench slo TARGET --repository REPO --slo-ms 20
  mmsr-bench compare before.json after.json --max-regression 10%

Exit codes: 0 measured; 1 not possible as asked (one line says why); 2 wrong usage; 3 a run is \
VOID: measured and shown, but it does not count; 4 worse than the limit that was set; 130 \
interrupted: what was measured so far is shown and written.
"""

SERVER = """Measure latency and throughput of a running server.

Sends the bundle's own histories. A closed loop (--concurrency) finds the throughput and hides \
waiting: while the server stalls, nobody asks. An open loop (--rate, --ramp, --step) sends at its \
times whatever the server does, so that a stall is felt by everyone who would have come meanwhile. \
Failed requests are counted by status, refusals apart, and as slower than every answer.

Examples:
  mmsr-bench server TARGET --repository REPO --concurrency 1,16,64
  mmsr-bench server TARGET --repository REPO --rate 500 --slo-ms 20
  mmsr-bench server TARGET --repository REPO --ramp 100:1000 --html r.html
  mmsr-bench server TARGET --repository REPO --step 100,800,100

Exit code 3: a run is VOID, since the generator itself was late or the answers were not the model's.
"""

SLO = """Find the highest rate at which p99 stays within a limit.

A closed loop says where to begin; short open loops go up from there, or halve the rates below, \
until one holds and one does not; these two are run again for --duration-s, and the higher that \
holds is the answer.

Examples:
  mmsr-bench slo TARGET --repository REPO --slo-ms 20
  mmsr-bench slo TARGET --repository REPO --probe-s 3 --duration-s 60

Exit code 3: a run is VOID; a rate at which the generator was late does not hold.
"""

OVERLOAD = """Send more than a server can do, and see what becomes of it.

Open loops at --factors of the capacity: how much is still answered in time (goodput), how much \
is refused, how fast a refusal comes. Then half the capacity, the largest factor, half again: the \
time until 99 % of a second's requests are good again is the recovery. Run it from another \
machine: where generator and server share cores, the generator is overloaded too, and such runs \
are VOID.

Examples:
  mmsr-bench overload TARGET --repository REPO --slo-ms 50 --deadline-ms 100
  mmsr-bench overload TARGET --repository REPO --capacity 2000 --factors 1,2,3

Exit code 3: a run is VOID.
"""

RELOAD = """Measure what clients feel while the server takes another bundle.

An open loop goes on while the label is moved between two bundles every --every-s seconds, or a \
--hook is run. Switches are seen by another model_version in the answers; the requests within 1 s \
of any switch are pooled and stand beside all others.

Examples:
  mmsr-bench reload TARGET --repository REPO --between 1f0c… --between 9ab3…
  mmsr-bench reload TARGET --repository REPO --hook ./switch.sh --every-s 20

Exit code 3: a run is VOID, or no switch was seen.
"""

CATALOGUE = """Measure how long a write to the catalogue takes until an answer shows it.

Made-up items come, may not be bought, may be bought again and are deleted, at --writes-per-s; \
recommendations go on at --rate, and every --probe-ms it is asked for what is being written. \
Windows without and with writes alternate, A B B A, and differ by the writes alone. At the end \
the items are deleted, and all that the catalogue lists is compared with before. Until then \
customers of that server may be shown them.

Examples:
  mmsr-bench catalogue TARGET --repository REPO --rate 100
  mmsr-bench catalogue TARGET --repository REPO --content text --rounds 3

Exit code 3: a run is VOID, no write was shown, or a made-up item is left.
"""

ENGINE = """Measure the runner alone, without a server: milliseconds a batch.

This is the ceiling of a server on this machine: no socket, no queue, full batches. Every \
combination of --items, --length, --k and --batch is measured. Several bundles (--repository, \
--label) are measured in turn, A B B A, so that what a machine does slowly falls on all, and each \
is set beside the first. What computes is chosen as mmsr-serve does; --runner forces it.

Examples:
  mmsr-bench engine --repository REPO --batch 1,8,64
  mmsr-bench engine --repository REPO --label fp32 --label int8 --batch 1,32
  mmsr-bench engine --repository OLD --repository NEW --batch 1,32
  mmsr-bench engine --repository REPO --items 10000,1000000 --length 10,50
"""

ENCODE = """Measure a bundle's image and text encoders: items a second.

From a picture's file or a text to its feature, beside the runner's own limit: the same graph on \
tensors that lie ready. The difference is decoding, resizing and tokenising.

Examples:
  mmsr-bench encode --repository REPO
  mmsr-bench encode --repository REPO --images SHOP/images --batch 32
"""

RETRAIN = """Measure the way from the end of a training to the first new answer.

Runs mmsr-export on a finished run, which moves the label, and waits until the server answers with \
the new bundle: by itself, if it watches the label, or after --restart. Every stage with its share.

Examples:
  mmsr-bench retrain RUN TARGET --repository REPO
  mmsr-bench retrain RUN TARGET --repository REPO --restart ./restart.sh

Exit code 1: mmsr-export refused the run, or the server had no new answer within --wait-s.
"""

COMPARE = """Compare two reports, or two running servers, as ratios with intervals.

Loads that both reports have are compared; with --live, both servers are measured in turn, \
A B B A A B …, so that what a machine does slowly falls on both. An interval that holds 1 says \
that no difference was seen; a regression is worse than --max-regression over the whole interval.

Examples:
  mmsr-bench compare before.json after.json --max-regression 10%
  mmsr-bench compare --live A:50051 B:50051 --repository REPO --rate 300

Exit code 3: a run is VOID (it was left out); 4: a regression.
"""
