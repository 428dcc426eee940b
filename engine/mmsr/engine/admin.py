"""`python -m mmsr.engine.admin TARGET status`: the operator's command."""

from mmsr.engine.admin_cli import main

if __name__ == "__main__":
    main()
