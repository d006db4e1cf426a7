"""What speaks HTTP: routes, replies, the page; all of it works on `clonedb.service.contract.Cloning`."""
