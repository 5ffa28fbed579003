"""The word lists of product_types: plain data, meant to be read and corrected."""

from typing import Final

_ABBREVIATIONS = """
sft=soft; drnk=drink; drnks=drinks; btl=bottle; btls=bottles; frzn=frozen; frz=frozen; fre=fresh; refrig=refrigerated;
refigerated=refrigerated; refri=refrigerated; chix=chicken; chick=chicken; chp=chop; chps=chops; brd=breaded;
brds=breads; grnd=ground; ptty=patty; shldr=shoulder; shnk=shank; flnk=flank; brskt=brisket; brst=breast; rst=roast;
stw=stew; saus=sausage; lnchmt=lunch meat; lunchmeat=lunch meat; luncheon=lunch; ppk=packaged; prepack=packaged;
prpck=packaged; prepackaged=packaged; preportnd=portions; preslc=sliced; preslcd=sliced; prslc=sliced; slc=sliced;
cnd=canned; can=canned; cans=canned; choc=chocolate; choco=chocolate; chocola=chocolate; chocol=chocolate;
chocoeclate=chocolate; chocoeclate=chocolate; chococlate=chocolate; chocol=chocolate; cran=cranberry; fd=food;
flvr=flavored; flvrd=flavored; flav=flavored; flv=flavored; frt=fruit; gds=goods; hygn=hygiene; fem=feminine;
jce=juice; juic=juice; jui=juice; ju=juice; lg=large; lrg=large; liq=liquid; liqs=liquid; lss=less; thn=than;
mlt=multi; mult=multi; mltpk=multipack; mrgrn=margarine; natrl=natural; nat=natural; nt=natural; nutritional=nutrition;
ntrtnl=nutrition; nut supp=supplement; plt=plant; plts=plants; pk=pack; pkg=packaged; pkgd=packaged; plstc=plastic;
prem=premium; proc=processed; pwdr=powder; pwdrs=powder; rw=; sal=salad; sgl=single; sngl=single; serv=serving;
sv=single serve; srv=serve; snk=snack; snks=snacks; ss=single serve; spec=specialty; spclty=specialty;
specilaty=specialty; speclty=specialty; speciality=specialty; stk=stick; str=stir; sup=super; supp=supplement;
supplemen=supplement; sw=sweet; swt=sweet; swe=sweet; swee=sweet; sweeten=sweetened; tom=tomato; toms=tomatoes;
tort=tortilla; trans=transmission; vac=vacuum; vit=vitamin; veg=vegetable; wat=water; wtr=water; wate=water; wh=whole;
whl=whole; wht=white; xmas=christmas; yng=young; kids=kids; mens=mens; entrees=entrees; entree=entree; dnrs=dinners;
dnrrs=dinners; prep=prepared; preprd=prepared; dl=deli; coff=coffee; crm=cream; crmd=creamed; crbntd=carbonated;
carb=carbonated; bev=beverage; beverag=beverages; bk=bakery; bkngwares=bakeware; cookng=cooking; cntrl=control;
conc=concentrate; combin=combination; cke=cake; dan=danish; decaffinated=decaf; dece=; deod=deodorant; dete=detergent;
dips=dips; dps=dips; pickls=pickles; pickld=pickled; drnkng=drinking; drnking=drinking; mneral=mineral; mnr=mineral;
mnrl=mineral; dxm=; pse=; eng=english; esp=; etc=; ex=; exc=; exce=; excp=; except=; fs=; gnger=ginger; gng=ginger;
gngr=ginger; hbc=care; indr=indoor; ingred=ingredients; iqf=frozen; iws=sliced; lozng=lozenges; syrp=syrup; drp=drops;
xpctrnt=expectorant; marin=marinade; marinad=marinade; mi=; misc=assorted; miscellaneous=assorted; fds=food; mlk=milk; moist=moist; n=; o=; b=; c=;
s=; u=; pac=packed; past=pasta; pnch=punch; pnut=peanut; pnt=peanut; btr=butter; portn=portions; porton=portions;
pro=; rbr=rubber; reg=regular; resc=; retl=retail; rtd=ready to drink; rts=ready to serve; sce=sauce; seafd=seafood;
seasn=seasonal; shlfsh=shellfish; smi=semi; sld=salad; soc=; stw=stew; subs=substitutes; sug=sugar; trad=traditional;
traditiona=traditional; traditionl=traditional; unsweet=unsweetened; unswe=unsweetened; val=value; vend=vending;
mach=machine; w=; wo=without; worchester=worcestershire; protien=protein; dipilatories=hair removal;
linaments=pain relief rub; analgesics=pain relief; catsup=ketchup; tissue=tissue; bathroom=bathroom; cig=cigarette;
ltr=lighter; catfd=cat food; dogfd=dog food; cilanto=cilantro; ranier=rainier; rechargable=rechargeable;
recharable=rechargeable; accss=accessories; acc=accessories; acces=accessories; access=accessories; gm=; bnls=boneless;
bx=box; chub=roll; cktls=cocktails; ctn=carton; brkfst=breakfast; whlsm=wholesome; cleang=cleaning; cleane=cleaner;
clothing=clothing; crackers=crackers; cracke=crackers; cooki=cookies; crsp=crisp; cutup=cut up; frd=fried; frk=;
minwtr=mineral water; fry=fry; refrgratd=refrigerated; rx=; disp=disposable; containr=container; containers=containers;
diapr=diaper; diet=diet; dom=; drg=; elsctc=electric; equip=equipment; fash=fashion; fl=; flourscent=fluorescent;
foilware=foil pans; foods=food; goldfish=goldfish; handke=handkerchiefs; hh=; hngrs=hangers; orgnzrs=organizers;
houseplay=house play; hse=; hygiene=hygiene; implements=tools; jhook=; kettles=kettles; klr=killer; lndry=laundry;
med=medium; meds=medicine; mfg=; mth=mouth; mus=; mustar=mustard; needs=supplies; nov=novelty; occas=occasion;
otc=over the counter; oth=; othe=; otyher=; otyherother=; perf=perfume; persnl=personal; picants=picante; pkls=pickles;
popp=popped; pot=pot; prod=produce; produ=products; produc=products; prophylactics=condoms; contraceptives=condoms;
pur=; qsr=; quar=; rolls=rolls; sb=; sect=sections; shr=; snsl=seasonal; spf=spf; spt=sport; sprd=spread; strp=strip;
suprt=support; sys=system; tb=; todd=toddler; tops=tops; tropicals=tropical plants; undergarmen=underwear;
vets=; vhs=vhs; wearables=; wps=wipes; wt=; exact=; wra=wraps; sandwic=sandwiches; chunk=chunks; lif=; inf=infant;
beerale=beer; beeralemalt=beer; handhelds=hot pockets; hotdog=hot dog; cored=cored; tv=tv; inch=inch; in=in; elect=;
lbs=lb; marinade=marinade; non=non; mixers=mixers; ltd=; juices=juice; breads=bread; creams=cream; oils=oil;
lss=less; bskts=baskets; cnt=; lotion=lotion; sanitary=sanitary; napkins=napkins; unbreakable=plastic;
"""
_FILLER = """
all other others assorted incl including included inclu includi except any etc types type item items pack
products product produc variety general not no exact bulk bag and or the with for of only brands special regular
standard multi s a b c retail consumer jhook
"""
_NAMES = """
FLUID MILK WHITE ONLY=milk; SOFT DRINKS 12/18&15PK CAN CAR=soft drink cans 12 pack; YOGURT NOT MULTI-PACKS=yogurt cup;
SFT DRNK 2 LITER BTL CARB INCL=2 liter soft drink; MAINSTREAM WHITE BREAD=white bread; PREMIUM=premium ice cream;
CANDY BARS (SINGLES)(INCLUDING=candy bar; SS ECONOMY ENTREES/DINNERS ALL=cheap frozen dinner; PRIMAL=beef roast;
BEERALEMALT LIQUORS=beer; FRZN SS PREMIUM ENTREES/DNRS/N=healthy frozen dinner; DRY=pork ribs dry rub;
FRZN SS PREMIUM ENTREES/DNRS/T=frozen dinner; SNACK CAKE - MULTI PACK=snack cakes; CONDENSED SOUP=condensed soup;
DAIRY CASE 100% PURE JUICE - O=orange juice; DAIRY CASE 100% PURE JUICE OTH=refrigerated fruit juice;
MAINSTREAM WHEAT/MULTIGRAIN BR=wheat bread; FRZN BAGGED VEGETABLES - PLAIN=frozen vegetables bag;
TORTILLA/NACHO CHIPS=nacho chips; SFT DRNK SNGL SRV BTL CARB (EX=soft drink bottle; TOILET TISSUE=toilet paper;
RTS SOUP: CHUNKY/HOMESTYLE ET=chunky soup; POURABLE SALAD DRESSINGS=salad dressing; EGGS - LARGE=large eggs;
EGGS - X-LARGE=extra large eggs; EGGS - MEDIUM=medium eggs; EGGS - JUMBO=jumbo eggs; LEAN=lean ground beef;
SOFT DRINK POWDER POUCHES=drink mix; SNACKS/APPETIZERS=frozen appetizers; ALL FAMILY CEREAL=family cereal;
IWS SINGLE CHEESE=american cheese slices; NON-IWS SINGLE CHEESE=deli cheese singles; PASTA: CANNED=canned pasta;
PAPER TOWELS & HOLDERS=paper towels; BABY FOOD - BEGINNER=stage 1 baby food; CHOICE BEEF=choice beef steak;
BABY FOOD JUNIOR ALL BRANDS=toddler baby food; MAINSTREAM=pasta sauce; SPICES & SEASONINGS=spices;
ISOTONIC DRINKS SINGLE SERVE=sports drink; ISOTONIC DRINKS MULTI-SERVE=sports drink pack; ENHANCED=pork chops;
MARGARINE: TUBS AND BOWLS=margarine tub; NATURAL CHEESE EXACT WT CHUNKS=block cheese; TRADITIONAL=ice cream;
ASEPTIC PACK JUICE AND DRINKS=juice boxes; MACARONI & CHEESE DNRS=macaroni and cheese; SOUR CREAMS=sour cream;
SWEET GOODS - FULL SIZE=sweet rolls and pastries; SALAD BAR FRESH FRUIT=fresh cut fruit salad bar;
NON-CRBNTD DRNKING/MNERAL WATE=bottled water; SGL SV/VEND MACH SNACKS CHIP/P=single serve chips;
FRZN BREADED PREPARED CHICK=frozen breaded chicken; CANNED CAT FOOD (9 LIVES/FRISK=canned cat food;
CHEESE CRACKERS (CHEEZ-ITS/GOL=cheese crackers; YOGURT MULTI-PACKS=yogurt pack; FRUIT BOWL AND CUPS=fruit cups;
MEAT: TURKEY BULK=deli turkey; MEAT:HAM BULK=deli ham; SANDWICHES&HANDHELDS=hot pockets; TUNA=canned tuna;
RAMEN NOODLES/RAMEN CUPS=ramen noodles; BEANS GREEN: FS/WHL/CUT=canned green beans; PIZZA/ECONOMY=cheap frozen pizza;
PIZZA/TRADITIONAL=frozen pizza; PIZZA/PREMIUM=premium frozen pizza; PIZZA=pizza; SW GDS:DONUTS=donuts;
PIZZA/SINGLE SERVE/MICROWAVE=microwave pizza; SEMI-SOLID SALAD DRESSING MAY=mayonnaise; POULTRY=turkey lunch meat;
SMOKED/COOKED=smoked sausage; VARIETY BEANS - KIDNEY PINTO=kidney and pinto beans; CORN=canned corn;
FRZN MULTI SERVE ENTREES ALL=family size frozen dinner; SFT DRNK MLT-PK BTL CARB (EXCP=soft drink bottles pack;
CANDY BARS (MULTI PACK)=candy bars pack; HAM=ham lunch meat; LUNCH COMBO=lunchables; SPAGHETTI DRY=spaghetti;
CARDS EVERYDAY=greeting cards; CARDS SEASONAL=holiday cards; REFRIGERATED BISCUITS REGULAR=refrigerated biscuits;
WAFFLES/PANCAKES/FRENCH TOAST=frozen waffles; CARROTS MINI PEELED=baby carrots; NOODLES DRY=egg noodles;
MEXICAN SAUCESSALSAPICANTEE=salsa; SOUP CRACKERS (SALTINE/OYSTER)=saltine crackers; MACARONI DRY=macaroni;
TOMATOES: STEWED/DICED/CRMD=canned diced tomatoes; STICKS/ENROBED=ice cream bars; REGULAR GARDEN=garden salad mix;
CANISTER POTATO/TORT CHIPS=canister potato chips; DAIRY CASE JUICE DRNK UNDER 10=fruit punch; BLENDS=salad blend;
DAIRY CASE FRUIT DRINKS (NO JU=refrigerated fruit drink; DAIRY CASE TEA WITH SUGAR OR S=refrigerated sweet tea;
DAIRY CASE CITRUS PNCH/OJ SUBS=citrus punch; SAUCE MIXES GRAVY MIXES DRY=gravy mix; GARDEN PLUS=garden salad plus;
BUTTER SPRAY CRACKER (RITZ/CLU=butter crackers; PREPARED BEANS - BAKED W/PORK=baked beans; PREMIUM BREAD=premium bread;
FACIAL TISSUE & PAPER HANDKE=facial tissue; SOFT DRINKS 20PK&24PK CAN CARB=soft drink cans 24 pack;
SOFT DRINKS 6PK/4PK CAN CARB (=soft drink cans 6 pack; REFRIGERATED SPECILATY ROLLS=refrigerated crescent rolls;
TRAY PACK/CHOC CHIP COOKIES=chocolate chip cookies; BREAD:ITALIAN/FRENCH=italian and french bread;
NATURAL CHEESE EXACT WT SLICES=sliced cheese; FRZN BOXED VEGETABLES- VALUE A=frozen vegetables in sauce box;
FRZN BAGGED VEGETABLES- VALUE=frozen vegetables in sauce bag; FRZN BOXED VEGETABLES - PLAIN=frozen vegetables box;
TOMATOES HOTHOUSE ON THE VINE=tomatoes on the vine; GRAPES WHITE=white grapes; CORN YELLOW=yellow sweet corn;
PUDDING&GELATIN CUPS/CANS=pudding cups; PREMIUM - MEAT=premium hot dogs; ECONOMY - MEAT=hot dogs; ECONOMY=bacon;
PREMIUM - BEEF=premium beef hot dogs; ECONOMY - BEEF=beef hot dogs; ROLLS - PORK=breakfast sausage roll; PAILS=ice cream pail;
PREMIUM PINTS=ice cream pint; SUPER PREMIUM PINTS=super premium ice cream pint; QUARTS=ice cream quart;
PEANUTS ALL=peanuts; MEAT: LUNCHMEAT BULK=deli lunch meat; POTATOES: DRY=instant mashed potatoes; ENTREES=heat and serve dinner;
CAN CATFD GOURMET/SUP PREM (GR=gourmet canned cat food; WATER ICE=popsicles; BREAST - BONELESS(IQF)=frozen chicken breast;
SELECT BEEF=select beef steak; NON-CARB FLVRD DRNKNG/MNRL WAT=flavored water; TV/MOVIE-MAGAZINE=tv magazine;
CAN DOG FOOD (SKIPPY/PEDIGREE/=canned dog food; FITNESS&DIET - BARS=protein bars; MISCELLANEOUS MILK=specialty milk;
FEM. HYGN.NAPKINS=sanitary pads; FEM. HYGN. TAMPONS=tampons; PRESERVES JAM MARMALADE=jam; CONES=ice cream cones;
GARBAGE KITCHEN COMPACTOR BA=trash bags; MEAT: SAUS DRY BULK=deli salami; BETTER FOR YOU=turkey bacon; FRESH=fresh sausage;
PATTIES=beef patties; LIQUID BLEACH=bleach; NON DAIRY CREAMER: DRY=powdered coffee creamer; VAC PAC NUTS(CANS)=canned nuts;
GRND/PATTY - FROZEN=frozen beef patties; SALAD MUSTARD=mustard; REFRIGERATED COOKIES-CHUB=cookie dough;
VANILLA WAFER/KIDS COOKIES=vanilla wafers; RIBS=pork ribs; DRY CAT FOOD (CAT CHOW/FRISKIE=dry cat food;
BLENDED JUICE&COMBINATIONS (OV=juice blend; BLENDED JUICE&COMBINATIONS (50=juice cocktail; LINKS - RAW=breakfast sausage links;
PLSTC CTLRYTBLCLTHSTTHPKSST=plastic cutlery; APPLE JUICE & CIDER (OVER 50%=apple juice; ANGUS=angus ground beef;
APPLE JUICE & CIDER (50% AND U=apple juice drink; MALTED MLK/SYRUP/PWDRS (EGGNOG=chocolate syrup and malted milk;
GRAVY CAN/GLASS=gravy; MINTS CANDY & BREATH (NOT LIF=breath mints; SOLID/STK DEODORANTS=deodorant stick;
CANDY & BREATH MINTS (PKGD) (N=packaged mints; SOFT DRINK BOTTLE NON-CARB (EX=bottled juice drink; ICE - CRUSHED/CUBED=bag of ice;
MEXICAN SOFT TORTILLAS AND WRA=flour tortillas; MUSHROOMS CND & GLASS=canned mushrooms; CROUTONS SALAD TOPPERS BREAD=salad toppers;
ENGLISH MUFFINS/WAFFLES=english muffins; FRZN BRD STICK/PORTON=fish sticks; PEACHES=canned peaches; PEARS=canned pears;
PINEAPPLE=canned pineapple; PEAS GREEN=canned peas; APRICOTS=canned apricots; CARROTS=canned carrots; BEETS=canned beets;
SPINACH & GREENS=canned spinach; MIXED VEGETABLES=canned mixed vegetables; SALMON=canned salmon; GREENS=collard greens;
CHICKEN DRUMS=chicken drumsticks; POTATOES SWEET&YAMS=sweet potatoes; ROMA TOMATOES (BULK/PKG)=roma tomatoes;
STEAK & WORCHESTER SAUCE=steak sauce; RICE - INSTANT & MICROWAVE=instant rice; BITS & MORSELS=chocolate chips;
RAZORS AND BLADES=razors; FLOUR: WHITE & SELF RISING=flour; SEAFOOD-FRZ-RAW FILLETS=frozen fish fillets;
CHIX: ROTISSERIE (HOT)=rotisserie chicken; CHIX: ROTISSERIE COLD=cold rotisserie chicken; DIET/LIGHT BREAD=light bread;
MICROWAVABLE CUPS=microwave meal cups; ANTI-ACIDS=antacid; AIR CARE - CONTINUOUS ACTION=plug in air freshener;
AIR CARE - AEROSOLS=air freshener spray; AIR CARE - CANDLES=scented candles; ORAL HYGIENE BRUSHES=toothbrush;
AIR CARE - CONTINUOUS - NON EL=air freshener gel; WOMEN S GENERAL-MAGAZINE=womens magazine; VALUE=value pasta sauce;
JUICE (UNDER 10% JUICE)=juice drink; BREADINGS  COATINGS CRUMBS=bread crumbs; FRUIT COCKTAIL FRUIT SALAD=fruit cocktail;
MOUTHWASH RINSES AND SPRAYS=mouthwash; FRZN BREAKFAST PASTRY=frozen breakfast pastry; INSIDE FROST BULBS=light bulbs;
MANDARIN ORANGES/CITRUS SECT=mandarin oranges; DISPOSABLE FOILWARE=foil pans; TEA BAGS & BULK TEA=tea bags;
CRANAPPLE CRAN GRAPE JUICE (5=cranberry apple juice; WHOLE CHICKEN (ROASTERS/FRYER)=whole chicken; DIPS=vegetable dip;
VEG JUICE (EXCEPT TOMATO) (OVE=vegetable juice; FRZN WHIPPED TOPPING=whipped topping; SOUP/STEW=stew beef;
MEXICAN BEANS REFRIED=refried beans; NATURAL BEEF=natural beef; SW GDS: SW ROLLS/DAN=sweet rolls and danish;
PREMIUM COOKIES (EX: PEPPERIDG=premium cookies; SOFT DRINKS CAN NON-CARB (EXCE=canned juice drink; FLUID MILK=organic milk;
BAGGED POPPED POPCORN=bagged popcorn; COUGH SYRP/LOZNG-DRP/XPCTRNT=cough drops; RICE - DRY BAG AND BOX=rice;
MISC MEAT SAUCES=sloppy joe sauce; SEAFOOD-FRZ-IQF RAW SHRIMP RW=frozen raw shrimp; MEXICAN TACO TOSTADO SHELLS=taco shells;
SEAFOOD-FRZ-IQF COOKED SHRIMP=frozen cooked shrimp; SEAFOOD-FRZ-BRD SHRIMP=breaded shrimp; SEAFOOD-FRE-SALMON=fresh salmon;
DESIGNER PAPER: MEDIUM WEIGHT=designer paper plates; FRUIT DRINKS: CANNED & GLASS (=canned fruit drink; SCOOP LITTER=clumping cat litter;
DRY BEANS/PEAS/BARLEY: BAG & B=dry beans; DRESSINGS=refrigerated salad dressing; SHAVE CREAMS AND POWDERS=shaving cream;
FRZN TATER TOTS/OTHER EXTRUDED=tater tots; SOFT DRINK CANISTERS=drink mix canister; JUICE=refrigerated juice;
GRAPE JUICE (OVER 50% JUICE)=grape juice; CRANBERRY JUICE (50% AND UNDER=cranberry juice; CEREAL - COLD=natural cereal;
POPULAR 750ML WINES=wine; PREMIUM 750ML WINES=premium wine; CHIX:FRD 8PC/CUT UP (HOT)=fried chicken; BEANS=fresh green beans;
HOT CHOCOLATE COCOA MIX=hot chocolate mix; GUM (PACKAGED)=packaged gum; YOGURT=organic yogurt; EGGS=organic eggs;
SANDWICH SAUCE=sandwich sauce; COLD AND FLU - DXM=cold and cough medicine; COLD AND FLU=cold and flu medicine;
COLD AND FLU - PSE=decongestant; CONVENTIONAL LITTER=cat litter; SQUASH ZUCCHINI=zucchini; HAIR SETS AND GELS=hair gel;
VINEGAR ALL-EXCEPT WINE/RIC=vinegar; FRZN CONC UNDER 50% JUICE=frozen lemonade; PLASTIC TRASH BAGS=plastic trash bags;
CARBONATED WATER - FLVRD SWEET=flavored sparkling water; PRE-COOKED=precooked bacon; AUTO DISH DETERGENT - GEL=dishwasher gel;
AUTO DISH DETERGENT - MONODOSE=dishwasher tablets; AUTOMATIC DISHWASHER DETERGENT=dishwasher detergent; KITS=salad kit;
NON-CARB WATER FLVR - DRNK/MNR=vitamin water; STANDARD OATMEAL=oatmeal; MISC SALES TRANS=miscellaneous sale; LOAVE=lunch meat loaf;
PICKLD VEG PEPPERS ETC=pickled peppers; PATTIES - RAW=breakfast sausage patties; AEROSOL TOPPINGS=spray whipped cream;
TABLE SALT POPCORN SALTICE C=table salt; PLASTIC/HEAVY PAPER PREM PLATE=heavy duty plates; VARIETY PACK=lunch meat variety pack;
KOSHER/SPECIALTY=kosher hot dogs; DISPOSABLE FD STORAGE CONTAINR=food storage containers; CUBED MEATS=cube steak; RED=red hot sausage;
SANDWICHES/BISCUITS/GRAVY=breakfast sandwiches; OTHER=specialty breakfast sausage; FLAVORED/OTHER=flavored bacon;
ROLLS - FLAVORED/OTHER=flavored breakfast sausage roll; ADULT PREMIUM=premium ice cream novelties; BUTTS=pork butt;
CUPS/PUSH UPS/OTHER=ice cream cups and push ups; MEAT INCLUDED=dinner kit with meat; MICROWAVE=microwave dinner kit; OVEN=oven dinner kit;
SMOKED/COOKED - BEEF=smoked beef sausage; SMOKED/COOKED - BETTER FOR YOU=smoked turkey sausage; COCKTAILS=cocktail sausages;
LINKS - COOKED=cooked breakfast sausage links; PATTIES - COOKED=cooked breakfast sausage patties; INTERNAL=chicken livers;
EXTERNAL=beef oxtail; PANTRY=pantry storage; LAUNDRY=laundry basket; TREATS=rice crispy treats; SOUPS=salad bar soup;
FURNITURE=furniture polish; ABRASIVES=scouring powder; SEASONAL=seasonal kitchenware; DECOR=christmas decor; APPLICATORS=makeup applicators;
FLANK=flank steak; CUPS=soup cups; THIN MEATS=thin sliced lamb; COOKED=cooked chicken; FLATS=bedding plant flats; MUMS=chrysanthemums;
SPHE 9.99=value dvd; KIDS/FAMILY=family dvd; DVD S=dvd; GRASS/SHRED=easter grass; BASIC OPENSTOCK=dinnerware; PEG TOYS=small toys;
SNACK NUT(BAG)=bagged nuts; MIXERS(CLUB SODA/SELTZERS)FLAV=flavored seltzer; MIXERS(TONIC WTR/CLUB SODA/GNG=tonic water;
FRZN OJ&OJ SUBSTITUTES (OVER 5=frozen orange juice; FRZN CONC ALLIEDS OVER 50% JUI=frozen juice concentrate; SUGAR=sugar;
REFRIGERATED COOKIES-BREAK N B=break and bake cookies; LIQUID SOAP=liquid hand soap; HERBS CILANTO=cilantro; HERBS PARSLEY=parsley;
HERBS BASIL=basil; BANDAGE/TAPE=bandages; TOILET BOWL MANUAL=toilet bowl cleaner; LINAMENTS=muscle rub; LIPCARE=lip balm;
PROPHYLACTICS=condoms; CATSUP=ketchup; BAKING POWDER & SODA=baking powder and soda;
HAM- NET WEIGHT=whole ham; CIG LIGHTERS/LTR FLUID/PIPES=lighters; DIECAST MINI=toy cars; PREPAID WIRELESS CARDS=prepaid phone card;
FROZEN CAKES/ALL TYPES INCLUDI=frozen cake; COOKING CHOCOLATE (EX SMI-SWT)=baking chocolate; LEMON JUICE & LIME JUICE (OVER=lemon juice;
KRAUT & CABBAGE=refrigerated sauerkraut; SEAFOOD-FRE-RAW FINFISH-OTHER=fresh fish; TRUESCENTS/BAIN DELUXE=scented bath products;
POTATOES SWEET=canned sweet potatoes; POTATOES WHITE=canned white potatoes; CORN WHITE=white sweet corn;
CORN BI-COLOR=bicolor sweet corn; REGULAR BEAN=whole bean coffee; GROUND DECAFFINATED=decaf ground coffee;
INSTANT DECAFFINATED=decaf instant coffee; WHOLE TOMS (OVER 15LBS)=whole tom turkey; CAKES: ANGEL FDS/CKE ROLLS=angel food cake;
ANTIPERSPIRANTS ONLY (ALL OTHE=antiperspirant; ANTIPERSPIRANTS ONLY (AEROSOL)=antiperspirant spray; WINGS (IQF)=frozen chicken wings;
DRUMS (IQF)=frozen chicken drumsticks; THIGHS (IQF)=frozen chicken thighs; RICE SIDE DISH MIXES DRY=rice side dish;
NOODLE SIDE DISH MIXES=noodle side dish; INSTORE CUT FRUIT=fresh cut fruit; INSTORE CUT VEGETABLES=fresh cut vegetables;
FRZN GARLIC BREAD/TOAST/STICKS=frozen garlic bread; ORANGES NAVELS ALL=navel oranges; ORANGES NON NAVEL ALL=oranges;
CANDY BAGS-CHOCOCLATE=chocolate candy bag; CANDY BAGS-NON CHOCOLATE=candy bag; BROCCOLI WHOLE&CROWNS=broccoli;
SEASONAL CANDY BAGS-CHOCOLATE=seasonal chocolate candy bag; SEASONAL CANDY BAGS NON-CHOCOL=seasonal candy bag;
SEASONAL CANDY BOX NON-CHOCOLA=seasonal candy box; SEASONAL CANDY BOX-CHOCOLATE=seasonal chocolate box; COOKIES: REGULAR=bakery cookies;
CANDY BAGS-CHOCOCLATE W/FLOUR=chocolate wafer candy bag; CANDY BARS MULTI PACK W/FLOUR=wafer candy bars pack; CAKES: NOVELTIES=novelty cakes;
PEPPERONI/SALAMI=pepperoni; MOLASSES & SYRUPS=pancake syrup; MELON HALVES/QUARTERS=cut melon; PIES: FRUIT/NUT=fruit pie;
SAL:SALSA/DPS-PRPCK=deli salsa and dips; SEAFOOD-FRE-NON RW-ALL=fresh seafood counter; SEAFOOD-FRZ-RW-ALL=frozen seafood;
SANDWICH SAUCE HORSERADISH SA=horseradish sauce; INSTANT COFFEE FLAVORED NO SWE=unsweetened flavored instant coffee;
INSTANT COFFEE FLAVORED W/SWEE=sweetened flavored instant coffee; TEA BAGS (SUPPLEMENT)=herbal supplement tea bags;
CHIX:VALUE ADDED (COLD)=cold deli chicken; CHIX: VALUE ADDED (HOT)=hot deli chicken; CUT VEGETABLES ALL OTHER=cut vegetables;
VEGETABLES ALL OTHER=fresh vegetables; DRY DOG VALUE (PET PRIDE/KLR/G=value dry dog food; DRY DOG ECONOMY (COST CUTTER/F=cheap dry dog food;
PROCESSED OTHER=packaged produce; VENDOR SIZE/SINGLE SERVE COOKI=single serve cookies; EGGS SUBSTITUTE=egg substitute;
BUTTER SPRAY CRACKER (RITZ/CLU=butter crackers; HAIR CONDITIONERS AND RINSES=hair conditioner; CHEESE: NATURAL BULK=deli cheese;
CHEESE: PROCESSED BULK=deli american cheese; MEAT: BEEF BULK=deli roast beef; MEAT: CHICKEN BULK=deli chicken; SALAD SPINACH=salad spinach;
DIET CNTRL BARS NUTRITIONAL=diet bars; DIET CNTRL LIQS NUTRITIONAL=diet shakes; ADULT ANALGESICS=pain reliever;
PEDIATRIC ANALGESICS=children's pain reliever; FACIAL SOAPS-SCRUBS-MASKS=face wash; FEEDING ACCESSORIES BOTTLES=baby bottles;
PINEAPPLE WHOLE&PEEL/CORED=fresh pineapple; WATERMELON SEEDLESS WHOLE=seedless watermelon; FRZN CORN ON THE COB=frozen corn on the cob;
LIQUID LAUNDRY DETERGENTS=liquid laundry detergent; JHOOK - MISC=household gadgets; BALLOONS 18IN PKG NON LICENSED=foil balloons;
SHAMPOO=shampoo; HERBS FRESH OTHER=fresh herbs; HERBS DRIED=dried herbs; REGULAR GARDEN=garden salad mix
"""
_HEADS = """
chix:=chicken; cakes:=cake; cake:=cake; cookies:=cookies; bread:=bread; bread -=bread; pies:=pie; rolls:=rolls;
party trays:=party tray; deli tray:=deli tray; meat:=deli meat; cheese:=cheese; sw gds:=; sweet goods:=; prep fd:=;
prep foods:=; sv bev:=drink; dl spec:=deli; sal:=salad; salad:=salad; qsr fd:=; qsr=; coff shop:=coffee shop;
coffee shop:=coffee shop; bk speclty:=; pizza/=frozen pizza; seafood-frz-iqf=frozen; seafood-frz-brd=frozen breaded fish;
seafood-frz-=frozen seafood; seafood-fre-=fresh seafood; seafood-misc-=seafood; nut supp-=supplement; vitamin -=vitamins;
continuity:=collection; snacks:=snacks; margarine:=margarine; flour:=flour; yeast:=yeast; tomatoes:=canned tomatoes; pasta:=pasta;
fitness&diet-=fitness; fitness&diet -=fitness; fitness&diet=fitness; fitness & diet -=fitness; misc:=; potatoes:=potatoes;
eggs -=eggs; juice (=juice; hams-=ham; ham-=ham; ice -=ice; rice -=rice; dairy case=refrigerated; isotonic drinks=sports drink;
sponges:=sponges; brooms:=brooms; mops:=mops; batteries:=batteries; cosmetics:=; cold and flu=cold and flu medicine;
bathroom cleaners -=bathroom cleaner; air care -=air freshener; floor -=floor cleaner; jewelry/costume=jewelry;
variety meat -=pork variety meat; smoked/cooked -=smoked sausage
"""
_FRONT = """
apples pears onions potatoes tomatoes peppers mushrooms carrots grapes oranges watermelon nectarines peaches
cherries squash melons beans mums
"""
_LAST = """
microwave dry sweetened unsweetened seasonal liquid canned cold hot boneless bone-in frozen shelled inshell packaged
whole processed refrigerated unflavored decorated dried marinated breaded
"""
_VAGUE = """
premium value economy traditional standard super ultra basic mainstream lean choice select natural regular smoked
cooked raw fresh frozen dry hot cold bulk packaged single serve large small medium half whole other specialty kosher
assorted seasonal promotional promo novelty novelties sliced boneless bone-in bone in out gift sets kits cups mini
flavored organic general patties links rolls roast steak steaks loin ground patty kabobs ribs chops strips cubes wings
drums thighs breast legs leg quarters end ends shoulder blade center cut up variety everyday classic gourmet adult
kids children infant domestic imported red white yellow accent accessories supplies decor promotion better you
"""
_NOUNS = """
ICE CREAM/MILK/SHERBTS=ice cream; BAKED BREAD/BUNS/ROLLS=bread; COLD CEREAL=cereal; BEEF=beef; PORK=pork; LAMB=lamb;
CHICKEN=chicken; TURKEY=turkey; VEAL=veal; PASTA SAUCE=pasta sauce; LUNCHMEAT=lunch meat; DINNER SAUSAGE=sausage;
HOT DOGS=hot dogs; BACON=bacon; BREAKFAST SAUSAGE/SANDWICHES=breakfast sausage; SALAD MIX=salad mix; HEAT/SERVE=dinner;
FRZN NOVELTIES/WTR ICE=ice cream novelties; MEAT - MISC=meat; MEAT - SHELF STABLE=canned meat; DINNER MXS:DRY=dinner mix;
CONVENIENT BRKFST/WHLSM SNACKS=snack bars; SMOKED MEATS=smoked ham; SEAFOOD - SHELF STABLE=canned fish; DELI MEATS=deli meat;
FRUIT - SHELF STABLE=canned fruit; VEGETABLES - SHELF STABLE=canned vegetables; FROZEN PIZZA=frozen pizza; MELONS=melons;
DOMESTIC WINE=wine; IMPORTED WINE=imported wine; LIQUOR=liquor; TOYS AND GAMES=toys; MAKEUP AND TREATMENT=makeup;
HOUSEHOLD CLEANG NEEDS=cleaner; PLASTIC HOUSEWARES=plastic storage; AUDIO/VIDEO PRODUCTS=dvd and audio; FLORAL-FRESH CUT=flowers;
FLORAL-FLOWERING PLANTS=flowering plants; FLORAL - FLOWERING PLANTS=flowering plants; GARDEN CENTER=garden; SOUP=soup;
FLORAL-FOLIAGE PLANTS=foliage plants; FLORAL BALLOONS=balloons; FLORAL-ACCESSORIES=floral accessories; HALLOWEEN=halloween;
CHRISTMAS  SEASONAL=christmas; SPRING/SUMMER SEASONAL=summer; FALL AND WINTER SEASONAL=winter; NON-DAIRY BEVERAGES=non dairy drink;
COUPON/MISC ITEMS=; PREPARED/PKGD FOODS=packaged food; REFRIGERATED=refrigerated; FROZEN=frozen; BAKING NEEDS=baking;
EXOTIC GAME/FOWL=game; FROZEN MEAT=frozen meat; CANDY - PACKAGED=candy; CANDY - CHECKLANE=candy; APPAREL=apparel;
COOKWARE & BAKEWARE=cookware; STATIONERY & SCHOOL SUPPLIES=stationery; GREETING CARDS/WRAP/PARTY SPLY=party supplies;
INFANT CARE PRODUCTS=baby; SALAD BAR=salad bar; SNKS/CKYS/CRKR/CNDY=natural snacks; PACKAGED NATURAL SNACKS=natural snacks
"""


def _pairs(text: str) -> dict[str, str]:
    entries = (entry.strip("\n").strip() for entry in text.replace(";\n", ";").split(";"))
    return {key: value.strip() for key, _, value in (entry.partition("=") for entry in entries if entry)}


WORDS: Final = _pairs(_ABBREVIATIONS)
NAMES: Final = _pairs(_NAMES)
HEADS: Final = dict(sorted(_pairs(_HEADS).items(), key=lambda pair: -len(pair[0])))
NOUNS: Final = _pairs(_NOUNS)
FILLER: Final = frozenset(_FILLER.split())
FRONT: Final = frozenset(_FRONT.split())
LAST: Final = frozenset(_LAST.split())
VAGUE: Final = frozenset(_VAGUE.split())
