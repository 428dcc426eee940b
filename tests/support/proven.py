"""What the two gates report of a bundle in which nothing is wrong."""

from mmsr.engine.probe import ProbeReport
from mmsr.engine.probe_filters import FilterReport
from mmsr.export.gate import GateReport
from mmsr.export.held_out import Comparison
from mmsr.export.parity import Agreement, Difference
from mmsr.export.quality import LiveReport, QualityReport, Size
from mmsr.export.stored import StoredReport
from mmsr.export.subsets import SubsetReport

FILTERED = FilterReport(users=128, overlap=1.0, max_error=1e-6, misordered=0)
PROBED = ProbeReport(
    runner="a runner",
    users=1000,
    k=20,
    overlap=1.0,
    worst_overlap=1.0,
    max_abs_error=1e-6,
    max_error=1e-6,
    alone_error=1e-7,
    padding_error=1e-7,
    state_error=1e-7,
    table_error=1e-7,
    ndcg=0.1,
    ndcg_reference=0.1,
    ndcg_error=0.0,
    misordered=0,
    filtered=FILTERED,
)
SAME = Comparison(users=1000, ndcg=0.1, reference=0.1, low=0.0, high=0.0)
AGREED = Agreement(users=16, overlap=1.0, max_error=1e-7)
NEAR = Difference(max_error=5e-7, max_abs_error=5e-7)
STORED = StoredReport(
    table_rows=301,
    tables={"tables/ids.npy": Difference()},
    items=300,
    initializers={"sequence": 50},
)
GOOD = GateReport(
    sequence=PROBED,
    held_out=SAME,
    buckets={"1": AGREED, "50": AGREED},
    item_items=300,
    item={"item_inputs": NEAR, "item_outputs": NEAR},
    made_up={"item_inputs": NEAR, "item_outputs": NEAR},
    subsets={"no text": SubsetReport(items=9, item={"item_outputs": NEAR}, sequence=AGREED)},
    stored=STORED,
    image_items=16,
    image_min_cosine=0.99999,
    text_items=64,
    text_min_cosine=0.99999,
)
ABOVE = Comparison(users=900, ndcg=0.2, reference=0.1, low=0.08, high=0.12)
SIZE = Size(items=1000, interactions=50_000)
LIVE = LiveReport(bundle_id="0123456789abcdef", size=SIZE, ndcg=ABOVE)
JUDGED = QualityReport(
    measured_on="run", size=SIZE, popularity=ABOVE, live=LIVE, max_drop=0.05, accept_drop=False
)
