"""Names on the wire that the server and its clients share."""

from mmsr.v1 import admin_pb2
from mmsr.v1 import recommender_pb2 as pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["Recommender"].full_name
ADMIN_NAME: str = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
RETRY_AFTER = "retry-after-ms"  # trailing metadata of RESOURCE_EXHAUSTED when the queue is full
REASON = "error-reason"  # trailing metadata, where the status alone does not tell the cause
REQUEST_ID = "x-request-id"  # the caller's own; in log lines, and sent back with errors
