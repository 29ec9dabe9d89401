"""A Ray cluster without cores: prints its address, then adds a machine for each line it reads."""

import sys

from ray.cluster_utils import Cluster

PLACE = {"node_ip_address": "127.0.0.1", "object_store_memory": 200_000_000}


def main() -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={**PLACE, "num_cpus": 0, "include_dashboard": False}
    )
    try:
        print(cluster.address, flush=True)
        for _ in sys.stdin:
            cluster.add_node(num_cpus=2, **PLACE)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
