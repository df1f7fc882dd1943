"""The test kit that ships with memrl-ctrl.

`FakeBackend` stands in for a machine where the physics does not matter. `BackendContract` checks
any backend against every promise of `memrl_ctrl.backend`:

```python
class TestMine(BackendContract):
    def make_backend(self) -> BeamBackend:
        return open_backend("mine", host="localhost")
```

Neither needs pytest to be imported.
"""

from memrl_ctrl.testing.contract import BackendContract, ContractBroken
from memrl_ctrl.testing.fake import FakeBackend

__all__ = ["BackendContract", "ContractBroken", "FakeBackend"]
