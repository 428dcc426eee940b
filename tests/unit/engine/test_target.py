import pytest

from mmsr.engine.errors import ConfigError
from mmsr.engine.target import check_target


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:50051", "localhost:1", "shop.example:65535", "[::1]:50051", "unix:/run/mmsr.sock"],
)
def test_a_host_with_its_port_is_taken(target: str) -> None:
    check_target(target)


@pytest.mark.parametrize(
    "target",
    ["", "localhost", ":50051", "h:", "h:0", "h:65536", "h:-1", "::1", "::1:50051", "http://h:80"],
)
def test_anything_else_is_one_error(target: str) -> None:
    with pytest.raises(ConfigError, match=r"expected HOST:PORT, such as 127\.0\.0\.1:50051"):
        check_target(target)
