"""Events: the channels whose readings are kept, one by one, many at once and as a sheet."""
