"""What redis-py understands of the URLs of stores and logs."""


def redis_url(url: str) -> str:
    """The URL with redis:// for valkey:// and without `+cluster`. Host and password stay as they are."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.removesuffix('+cluster').replace('valkey', 'redis')}://{rest}"
