from demo.prepare import main

main()
