"""What an application uses: `Client`, its models, leases and results.

```python
fleet = Client.from_env()
det = fleet.model("vision.defects", fallback="assets/defects-v1.onnx")
det.start(timeout=5)
with det.lease() as model:
    result = model.infer(image=frame)
det.feedback(result.id, label="scratch")
```

In this release the application and the agent share one process: the client runs the agent in threads. Applications in
other processes or languages, over a Unix socket, come later.
"""

from device_client.sdk.client import Client
from device_client.sdk.contract import contract
from device_client.sdk.host import Lease, Result
from device_client.sdk.model import ServedModel

__all__ = ["Client", "Lease", "Result", "ServedModel", "contract"]
