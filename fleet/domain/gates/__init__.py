"""The gates, one kind a module. Each takes facts and gives results; `fleet.domain.gate.judge` asks them all."""
