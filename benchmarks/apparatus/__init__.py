"""What benchmarks are made with: servers, schemas, processes, clocks and tables."""
